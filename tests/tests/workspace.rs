//! The workspace as cargo sees it: what the structure tests ask.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// The top of the checkout.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The text of a file below the top.
pub fn text(path: &str) -> String {
    std::fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A member of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    pub name: String,
    pub manifest_path: PathBuf,
    pub dependencies: Vec<Dependency>,
    pub targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
pub struct Dependency {
    pub name: String,
    /// `None` = normal, else `dev` or `build`.
    pub kind: Option<String>,
    pub optional: bool,
    /// Set for members of this workspace.
    pub path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
pub struct Target {
    pub name: String,
    pub kind: Vec<String>,
}

impl Package {
    /// The members that it depends on: for the program, or also for tests.
    pub fn members(&self, tests_too: bool) -> BTreeSet<&str> {
        let wanted = |d: &&Dependency| d.path.is_some() && (tests_too || d.kind.as_deref() != Some("dev"));
        self.dependencies.iter().filter(wanted).map(|d| d.name.as_str()).collect()
    }
}

/// All members.
pub fn members() -> Vec<Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(top())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Metadata>(&output.stdout).unwrap().packages
}

/// The lock file: every package with its version and the packages that it depends on, for tests too.
#[derive(Default)]
pub struct Lock {
    /// `(name, version)`.
    pub packages: BTreeSet<(String, String)>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Lock {
    /// Reads `Cargo.lock`.
    pub fn read() -> Self {
        Self::parse(&text("Cargo.lock"))
    }

    fn parse(text: &str) -> Self {
        let mut lock = Self::default();
        for block in text.split("[[package]]").skip(1) {
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
                line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
            };
            let name = field("name");
            // A dependency is `"name"`, with its version where there are several.
            let dependencies = block.lines().filter_map(|line| line.strip_prefix(" \"")?.split([' ', '"']).next());
            lock.edges.entry(name.clone()).or_default().extend(dependencies.map(str::to_owned));
            lock.packages.insert((name, field("version")));
        }
        lock
    }

    /// A way from one package to one whose name `is_wanted`, if there is any.
    pub fn way(&self, from: &str, is_wanted: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut ways = VecDeque::from([vec![from.to_owned()]]);
        while let Some(way) = ways.pop_front() {
            for next in self.edges.get(way.last()?).into_iter().flatten() {
                let mut longer = way.clone();
                longer.push(next.clone());
                if is_wanted(next) {
                    return Some(longer);
                }
                if seen.insert(next.clone()) {
                    ways.push_back(longer);
                }
            }
        }
        None
    }
}

#[test]
fn a_way_through_the_lock_file_is_found() {
    let lock = Lock::parse(
        "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\ndependencies = [\n \"b\",\n \"c 2.0.0\",\n]\n\n\
         [[package]]\nname = \"c\"\nversion = \"2.0.0\"\ndependencies = [\n \"d\",\n]\n",
    );
    assert_eq!(lock.way("a", |name| name == "d"), Some(vec!["a".into(), "c".into(), "d".into()]));
    assert_eq!(lock.way("a", |name| name == "e"), None);
    assert!(lock.packages.contains(&("c".into(), "2.0.0".into())));
}
