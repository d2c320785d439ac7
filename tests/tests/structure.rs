//! The shape of the workspace: which crate may know which, and that every connector is listed.

use std::collections::BTreeSet;

use crate::workspace::{Lock, Package, members, text, top};

/// Which members a crate may depend on, for the program and for its tests; `None` = all.
///
/// | crate | may know | in tests also |
/// | --- | --- | --- |
/// | core, runner/heap | nothing | |
/// | core/files, core/http, core/sql, core/tls, core/conformance | core | the testkit |
/// | core/testkit | core, core/conformance | |
/// | a connector | core, core/files, core/http, core/sql, core/tls | the testkit |
/// | a table format, the catalog, runner/sql-checks | core | the testkit |
/// | the runner, tests | all | all |
fn may_know(name: &str) -> Option<Option<(&'static [&'static str], &'static [&'static str])>> {
    const CORE: &[&str] = &["ingest-core"];
    const KIT: &[&str] = &["ingest-core", "ingest-testkit"];
    Some(match name {
        "ingest-core" | "ingest-heap" => Some((&[], &[])),
        "ingest-files" | "ingest-http" | "ingest-sql" | "ingest-tls" | "ingest-catalog" | "ingest-conformance" => {
            Some((CORE, KIT))
        }
        "ingest-testkit" => Some((&["ingest-core", "ingest-conformance"], &["ingest-core", "ingest-conformance"])),
        "ingest-runner" | "ingest-tests" => None,
        "ingest-sql-checks" => Some((CORE, KIT)),
        _ if name.starts_with("ingest-lake-") => Some((CORE, KIT)),
        _ if name.starts_with("ingest-connector-") => Some((
            &["ingest-core", "ingest-files", "ingest-http", "ingest-sql", "ingest-tls"],
            &["ingest-core", "ingest-files", "ingest-http", "ingest-sql", "ingest-tls", "ingest-testkit"],
        )),
        _ => return None,
    })
}

fn wrong_arrows(package: &Package) -> Vec<String> {
    let Some(rule) = may_know(&package.name) else {
        return vec![format!("{} has no rule: say in may_know which crates it may depend on", package.name)];
    };
    let Some((program, tests)) = rule else { return Vec::new() };
    let mut wrong = Vec::new();
    for (tests_too, allowed, what) in [(false, program, "depends"), (true, tests, "depends in its tests")] {
        let known = package.members(tests_too);
        let extra = known.iter().filter(|name| !allowed.contains(name));
        wrong.extend(extra.map(|name| format!("{} {what} on {name}", package.name)));
    }
    wrong
}

#[test]
fn every_arrow_between_crates_points_towards_core() {
    let wrong: Vec<String> = members().iter().flat_map(wrong_arrows).collect();
    assert!(wrong.is_empty(), "arrows in the wrong direction:\n  {}", wrong.join("\n  "));
}

#[test]
fn an_arrow_in_the_wrong_direction_is_found() {
    let package = |name: &str, dependency: &str, kind: Option<&str>| {
        let json = serde_json::json!({
            "name": name, "manifest_path": "/x/Cargo.toml", "targets": [],
            "dependencies": [{"name": dependency, "kind": kind, "optional": false, "path": "/x"}],
        });
        serde_json::from_value::<Package>(json).unwrap()
    };
    assert!(wrong_arrows(&package("ingest-connector-acme", "ingest-http", None)).is_empty());
    assert!(wrong_arrows(&package("ingest-connector-acme", "ingest-testkit", Some("dev"))).is_empty());
    for (name, dependency, kind) in [
        ("ingest-connector-acme", "ingest-runner", None),
        ("ingest-connector-acme", "ingest-connector-files", None),
        ("ingest-connector-acme", "ingest-testkit", None),
        ("ingest-connector-acme", "ingest-lake-delta", Some("dev")),
        ("ingest-lake-delta", "ingest-catalog", None),
        ("ingest-core", "ingest-http", None),
        ("ingest-stranger", "ingest-core", None),
    ] {
        assert!(!wrong_arrows(&package(name, dependency, kind)).is_empty(), "{name} -> {dependency}");
    }
}

/// Connector tests must never build a table format: it is most of the build.
#[test]
fn no_connector_and_no_part_of_core_reaches_a_table_format() {
    let is_format = |name: &str| {
        ["deltalake", "delta_kernel", "buoyant_kernel", "datafusion", "iceberg", "ingest-lake-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    let lock = Lock::read();
    let mut reached = Vec::new();
    for package in members() {
        let stays_light = may_know(&package.name).is_some_and(|rule| rule.is_some());
        if stays_light && !package.name.starts_with("ingest-lake-") {
            reached.extend(lock.way(&package.name, is_format).map(|way| way.join(" -> ")));
        }
    }
    assert!(reached.is_empty(), "these build a table format:\n  {}", reached.join("\n  "));
    assert!(lock.way("ingest-runner", is_format).is_some(), "the test looks for names that nothing has any more");
}

#[test]
fn every_connector_is_in_the_runner_and_in_its_registry() {
    let folders: BTreeSet<String> = std::fs::read_dir(top().join("connectors"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| top().join("connectors").join(name).join("Cargo.toml").is_file())
        .collect();
    assert!(!folders.is_empty());
    let members = members();
    let runner = members.iter().find(|p| p.name == "ingest-runner").unwrap();
    let (manifest, registry) = (text("runner/Cargo.toml"), text("runner/src/registry.rs"));
    for folder in &folders {
        let package = format!("ingest-connector-{folder}");
        let manifest_path = top().join("connectors").join(folder).join("Cargo.toml");
        let member = members.iter().find(|p| p.name == package);
        assert_eq!(member.map(|p| &p.manifest_path), Some(&manifest_path), "connectors/{folder} is not {package}");
        let dependency = runner.dependencies.iter().find(|d| d.name == package);
        assert!(dependency.is_some_and(|d| d.optional), "runner/Cargo.toml has no optional dependency {package}");
        let feature = format!("{folder} = [\"dep:{package}\"]");
        assert!(manifest.lines().any(|line| line == feature), "runner/Cargo.toml has no line `{feature}`");
        let line = format!(".with::<{}::", package.replace('-', "_"));
        assert_eq!(registry.matches(&line).count(), 1, "runner/src/registry.rs needs one line `{line}…`");
    }
    let listed = registry.matches(".with::<ingest_connector_").count();
    assert_eq!(listed, folders.len(), "the registry lists a connector that has no folder");
}

/// A second major of arrow would make two types of every array, and a batch of one is refused by the other.
#[test]
fn there_is_one_arrow() {
    let lock = Lock::read();
    let is_arrow = |name: &str| name == "arrow" || name.starts_with("arrow-") || name == "parquet";
    let majors: BTreeSet<(&str, &str)> = lock
        .packages
        .iter()
        .filter(|(name, _)| is_arrow(name))
        .map(|(name, version)| (name.as_str(), version.split('.').next().unwrap()))
        .collect();
    let versions: BTreeSet<&str> = majors.iter().map(|(_, major)| *major).collect();
    assert_eq!(versions.len(), 1, "{majors:?}");
    let object_stores = lock.packages.iter().filter(|(name, _)| name == "object_store").count();
    assert_eq!(object_stores, 1, "two versions of object_store cannot share a store");
}

#[test]
fn every_crate_inherits_from_the_workspace() {
    let mut faults = Vec::new();
    for package in members() {
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        for line in ["version", "edition", "rust-version", "license"] {
            if !manifest.contains(&format!("\n{line}.workspace = true\n")) {
                faults.push(format!("{}: {line} is its own", package.name));
            }
        }
        // The one crate that may say `unsafe` has lints of its own.
        if package.name != "ingest-heap" && !manifest.contains("[lints]\nworkspace = true") {
            faults.push(format!("{}: no workspace lints", package.name));
        }
        // Features differ by member, and cargo compiles a crate once for each set: so they are declared at the top.
        let dependencies = manifest.split("dependencies]\n").skip(1);
        for line in dependencies.flat_map(|part| part.lines().take_while(|line| !line.starts_with('['))) {
            let own = !line.contains("workspace = true") || line.contains("features");
            if own && !line.trim().is_empty() && !line.starts_with('#') {
                faults.push(format!("{}: `{line}` is not declared at the top", package.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Each test binary links everything again.
#[test]
fn every_crate_has_at_most_one_integration_test_binary() {
    for package in members() {
        let tests: Vec<&str> =
            package.targets.iter().filter(|t| t.kind.contains(&"test".to_owned())).map(|t| t.name.as_str()).collect();
        assert!(
            tests.len() <= 1,
            "{} has {tests:?}: make them modules of tests/main.rs, set autotests = false",
            package.name
        );
    }
}
