//! Contacts and owners: tokens that expire, a cursor in the body.

use std::collections::BTreeMap;

use ingest_testkit::http::{Request, Response};
use serde_json::{Value, json};

use super::{Api, CANARY, number, refuse, rfc3339};

const PAGE: usize = 15;

pub struct HubSpot {
    pub now: i64,
    pub contacts: BTreeMap<i64, Value>,
    pub owners: Vec<Value>,
    /// The token that is valid.
    pub token: u64,
    pub exchanges: usize,
}

impl HubSpot {
    pub fn new(now: i64) -> Self {
        let contact = |id: i64| {
            json!({"id": id.to_string(), "archived": false, "createdAt": rfc3339(1_600_000_000),
                "updatedAt": rfc3339(1_700_000_000 + id), "properties": {"email": format!("c{id}@example.com"),
                "firstname": "Ann", "lastname": null, "lastmodifieddate": rfc3339(1_700_000_000 + id)}})
        };
        let owner = |id: i64| {
            json!({"id": id.to_string(), "email": format!("o{id}@example.com"), "userId": id, "score": 1.25,
                "archived": false, "createdAt": rfc3339(1_600_000_000), "teams": [{"id": "t"}]})
        };
        let contacts = (0..70).map(|n| (100 + n * 3, contact(100 + n * 3))).collect();
        Self { now, contacts, owners: (0..20).map(owner).collect(), token: 0, exchanges: 0 }
    }

    pub fn archive(&mut self, id: i64) {
        let contact = self.contacts.get_mut(&id).unwrap();
        contact["archived"] = true.into();
        contact["archivedAt"] = rfc3339(self.now).into();
    }

    fn exchange(&mut self, request: &Request) -> Response {
        let form = request.form();
        let right = form.get("grant_type").is_some_and(|grant| grant == "refresh_token")
            && form.get("refresh_token").is_some_and(|token| token == CANARY)
            && form.get("client_id").is_some_and(|id| id == "app")
            && form.get("client_secret").is_some_and(|secret| secret == "canary-app-secret");
        if !right {
            return refuse(400, r#"{"error":"invalid_grant"}"#);
        }
        self.token += 1;
        self.exchanges += 1;
        let token = format!("access-{}", self.token);
        Response::json(json!({"access_token": token, "token_type": "bearer", "expires_in": 1800}).to_string())
    }
}

impl Api for HubSpot {
    fn now(&self) -> i64 {
        self.now
    }

    fn answer(&mut self, request: &Request) -> Response {
        if request.path == "/oauth/v1/token" {
            return self.exchange(request);
        }
        if request.header("authorization") != Some(&format!("Bearer access-{}", self.token)) {
            return refuse(401, r#"{"status":"error","category":"EXPIRED_AUTHENTICATION"}"#);
        }
        let archived = request.param("archived").as_deref() == Some("true");
        let all: Vec<(i64, &Value)> = match request.path.as_str() {
            "/crm/v3/objects/contacts" => {
                self.contacts.iter().filter(|(_, c)| c["archived"] == archived).map(|(id, c)| (*id, c)).collect()
            }
            "/crm/v3/owners" => self.owners.iter().enumerate().map(|(n, owner)| (n as i64, owner)).collect(),
            _ => return refuse(404, r#"{"status":"error"}"#),
        };
        let after = request.param("after").map(|after| after.parse::<i64>().unwrap());
        let size = number(request, "limit").unwrap_or(10).min(PAGE);
        let mut shown: Vec<_> = all.into_iter().filter(|(id, _)| after.is_none_or(|after| *id > after)).collect();
        let more = shown.len() > size;
        shown.truncate(size);
        let last = shown.last().map(|(id, _)| id.to_string());
        let results: Vec<&Value> = shown.into_iter().map(|(_, value)| value).collect();
        let mut body = json!({"results": results});
        if more {
            body["paging"] = json!({"next": {"after": last, "link": "https://api.hubapi.com/ignored"}});
        }
        Response::json(body.to_string())
    }
}
