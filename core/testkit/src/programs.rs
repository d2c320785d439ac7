//! Finds the programs that tests run against.
//!
//! `.ci/install` puts them under [`home`]. A program that is missing fails the test that asks for it, because a test
//! that is not run proves nothing; `INGEST_TEST_SKIP=s3,azurite` lets a developer do without some of them.

use std::path::{Path, PathBuf};

/// Where `.ci/install` puts what does not come from the system's packages: `INGEST_TEST_HOME`, else
/// `~/.cache/ingest-test`.
pub fn home() -> PathBuf {
    let user = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    std::env::var_os("INGEST_TEST_HOME").map_or_else(|| user().join(".cache/ingest-test"), PathBuf::from)
}

/// Whether `INGEST_TEST_SKIP` names this server; then the test says so and returns.
pub fn skipped(server: &str) -> bool {
    let named = std::env::var("INGEST_TEST_SKIP").is_ok_and(|list| names(&list, server));
    if named {
        println!("skipped: {server} is named in INGEST_TEST_SKIP");
    }
    named
}

/// The first of `candidates` that can be run; `None` when `INGEST_TEST_SKIP` names the server. A candidate without a
/// slash is looked up on `PATH`.
///
/// # Panics
/// When there is none: the message says what to do.
pub fn find(server: &str, candidates: &[PathBuf]) -> Option<PathBuf> {
    if skipped(server) {
        return None;
    }
    let found = candidates.iter().find_map(|candidate| runnable(candidate));
    let looked = || candidates.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ");
    Some(found.unwrap_or_else(|| {
        panic!("{server} is not installed (looked for {}); run .ci/install, or set INGEST_TEST_SKIP={server}", looked())
    }))
}

fn names(list: &str, server: &str) -> bool {
    list.split(',').any(|name| name.trim() == server)
}

fn runnable(candidate: &Path) -> Option<PathBuf> {
    if candidate.components().count() > 1 {
        return candidate.is_file().then(|| candidate.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(candidate)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_or_by_its_own() {
        assert!(find("shell", &["no-such-program-xyz".into(), "sh".into()]).is_some());
        assert!(runnable(Path::new("/bin/sh")).is_some());
    }

    #[test]
    #[should_panic(expected = "run .ci/install, or set INGEST_TEST_SKIP=nothing")]
    fn a_missing_program_fails_the_test_and_says_what_to_do() {
        find("nothing", &["/no/such/program".into()]);
    }

    #[test]
    fn only_whole_names_are_skipped() {
        assert!(names("s3, azurite", "azurite"));
        assert!(!names("s3,azurite", "azur"));
    }
}
