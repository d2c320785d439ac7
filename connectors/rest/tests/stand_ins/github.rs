//! Repositories and their issues, pages of at most 20 by the header `Link`.

use ingest_testkit::http::{Request, Response};
use serde_json::{Value, json};

use super::{Api, CANARY, number, refuse, rfc3339};

/// Pages are smaller than what is asked for, as some servers do.
const PAGE: usize = 20;

pub struct Issue {
    pub id: i64,
    pub repo: String,
    pub title: String,
    pub updated: i64,
    /// It is not shown before.
    pub visible: i64,
}

pub struct GitHub {
    pub now: i64,
    pub repos: Vec<(i64, String)>,
    pub issues: Vec<Issue>,
    /// This repository has no issues at all: 410.
    pub without: Option<String>,
    next: i64,
}

impl GitHub {
    /// Some repositories, most of them with few issues, two with many.
    pub fn new(now: i64) -> Self {
        let mut api = Self { now, repos: Vec::new(), issues: Vec::new(), without: None, next: 1_000 };
        for n in 0..23 {
            api.add_repo(&format!("repo {n}/ü"));
        }
        for n in 0..45 {
            api.add_issue("repo 0/ü", now - 90_000 + n * 7, 0);
            api.add_issue("repo 7/ü", now - 90_000 + n, 0);
        }
        for n in 8..20 {
            api.add_issue(&format!("repo {n}/ü"), now - 5_000, 0);
        }
        api.without = Some("repo 22/ü".into());
        api
    }

    fn id(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    pub fn add_repo(&mut self, name: &str) {
        let id = self.id();
        self.repos.push((id, name.into()));
    }

    /// An issue that was changed last at a time and is shown so many seconds later.
    pub fn add_issue(&mut self, repo: &str, updated: i64, delay: i64) -> i64 {
        let id = self.id();
        let title = format!("issue {id}");
        self.issues.push(Issue { id, repo: repo.into(), title, updated, visible: updated + delay });
        id
    }

    pub fn touch(&mut self, nth: usize) {
        let now = self.now;
        let issue = &mut self.issues[nth];
        issue.title = format!("changed {now}");
        issue.updated = now;
        issue.visible = now;
    }

    fn issue(&self, issue: &Issue) -> Value {
        json!({"id": issue.id, "number": issue.id - 1_000, "title": issue.title, "body": null, "state": "open",
            "user": {"login": "x", "id": 1}, "labels": [{"name": "bug"}], "comments": 0, "node_id": "n",
            "created_at": rfc3339(1_600_000_000), "updated_at": rfc3339(issue.updated), "closed_at": null})
    }
}

impl Api for GitHub {
    fn now(&self) -> i64 {
        self.now
    }

    fn answer(&mut self, request: &Request) -> Response {
        if request.header("authorization") != Some(&format!("Bearer {CANARY}")) {
            return refuse(401, json!({"message": "Bad credentials"}).to_string());
        }
        if request.header("x-github-api-version").is_none() || request.header("user-agent").is_none() {
            return Response::status(400);
        }
        let all: Vec<Value> = match request.path.strip_prefix("/repos/acme/").and_then(|p| p.strip_suffix("/issues")) {
            None if request.path == "/orgs/acme/repos" => self
                .repos
                .iter()
                .map(|(id, name)| {
                    json!({"id": id, "name": name, "full_name": format!("acme/{name}"), "private": false,
                        "topics": ["a", "b"], "stargazers_count": 3, "created_at": rfc3339(1_600_000_000)})
                })
                .collect(),
            None => return refuse(404, r#"{"message":"Not Found"}"#),
            Some(name) => {
                let name = percent_decode(name);
                if self.without.as_deref() == Some(&name) {
                    return refuse(410, r#"{"message":"Issues has been disabled"}"#);
                }
                if !self.repos.iter().any(|(_, repo)| *repo == name) {
                    return refuse(404, r#"{"message":"Not Found"}"#);
                }
                let since = request.param("since").unwrap_or_default();
                let shown =
                    |issue: &&Issue| issue.repo == name && issue.visible <= self.now && rfc3339(issue.updated) >= since;
                let mut issues: Vec<&Issue> = self.issues.iter().filter(shown).collect();
                issues.sort_by_key(|issue| (issue.updated, issue.id));
                if request.param("direction").as_deref() == Some("desc") {
                    issues.reverse();
                }
                issues.into_iter().map(|issue| self.issue(issue)).collect()
            }
        };
        let page = number(request, "page").unwrap_or(1).max(1);
        let size = number(request, "per_page").unwrap_or(30).min(PAGE);
        let shown: Vec<&Value> = all.iter().skip((page - 1) * size).take(size).collect();
        let response = Response::json(serde_json::to_vec(&shown).unwrap());
        if page * size >= all.len() {
            return response;
        }
        let host = request.header("host").unwrap_or_default();
        let kept = request.query.split('&').filter(|pair| !pair.starts_with("page=") && !pair.is_empty());
        let query = kept.map(str::to_owned).chain([format!("page={}", page + 1)]).collect::<Vec<_>>().join("&");
        let link = format!("<http://{host}{}?{query}>", request.path);
        response.header("link", format!(r#"<http://{host}/first>; rel="first", {link}; rel="next""#))
    }
}

fn percent_decode(text: &str) -> String {
    // A path segment has no `+` for blanks; ours holds none.
    let pair = format!("x={text}");
    url::form_urlencoded::parse(pair.as_bytes()).next().unwrap().1.into_owned()
}
