//! `ingest new connector`: a crate that compiles, reads a sample that comes with it, and passes the conformance suite.

use std::path::{Path, PathBuf};

use ingest_core::{Error, ErrorKind, Result};

use super::args::{Kind, NewConnectorArgs, NewVerb};
use super::output::{Outcome, note, print, safe};

/// A file of a template: where it goes, and what it says.
type File = (&'static str, &'static str);

/// A file of a folder below `runner/templates`, under the same name or another one.
macro_rules! file {
    ($folder:literal, $path:literal) => {
        ($path, include_str!(concat!("../../templates/", $folder, "/", $path)))
    };
    ($folder:literal, $from:literal as $path:literal) => {
        ($path, include_str!(concat!("../../templates/", $folder, "/", $from)))
    };
}

/// The same in every kind, unless a kind has its own.
const COMMON: &[File] = &[
    file!("common", "gitignore" as ".gitignore"),
    file!("common", "src/main.rs"),
    file!("common", "examples/sample_server.rs"),
    file!("common", "tests/main.rs"),
];

// A nested manifest would make the template a package of its own, which `cargo package` leaves out: hence the other name.
const REST: &[File] = &[
    file!("rest", "Cargo.toml.template" as "Cargo.toml"),
    file!("rest", "README.md"),
    file!("rest", "conformance.yaml"),
    file!("rest", "src/lib.rs"),
    file!("rest", "src/config.rs"),
    file!("rest", "src/streams.rs"),
    file!("rest", "src/api.rs"),
    file!("rest", "tests/main.rs"),
    file!("rest", "tests/hostile.rs"),
    file!("rest", "tests/sample.rs"),
];

const DATABASE: &[File] = &[
    file!("database", "Cargo.toml.template" as "Cargo.toml"),
    file!("database", "README.md"),
    file!("database", "conformance.yaml"),
    file!("database", "src/lib.rs"),
    file!("database", "src/config.rs"),
    file!("database", "src/tables.rs"),
    file!("database", "src/client.rs"),
    file!("database", "tests/sample.rs"),
];

const FILES: &[File] = &[
    file!("files", "Cargo.toml.template" as "Cargo.toml"),
    file!("files", "README.md"),
    file!("files", "conformance.yaml"),
    file!("files", "src/lib.rs"),
    file!("files", "src/config.rs"),
    file!("files", "src/format.rs"),
    file!("files", "tests/sample.rs"),
];

/// Names that the templates give to other things.
const TAKEN: [&str; 12] =
    ["arc", "box", "config", "connector", "cursor", "error", "plan", "position", "result", "self", "spec", "stream"];

/// Runs the verb.
pub fn run(verb: &NewVerb) -> Outcome {
    let NewVerb::Connector(args) = verb;
    connector(args, Path::new("."))?;
    print(&format!("wrote {}\n", safe(&args.name)))?;
    note(&format!("next: cd {} && cargo test && ingest connector test .", safe(&args.name)));
    Ok(0)
}

/// Writes the crate below a folder, and gives its own.
fn connector(args: &NewConnectorArgs, parent: &Path) -> Result<PathBuf> {
    let name = Name::new(&args.name)?;
    let dependencies = Dependencies::of(args.path.as_deref().filter(|path| !path.as_os_str().is_empty()))?;
    let folder = parent.join(&name.word);
    std::fs::create_dir(&folder).map_err(|error| {
        let there = error.kind() == std::io::ErrorKind::AlreadyExists;
        let error = cannot("make the folder", &folder, error);
        if there { error.hint("choose another name, or move that folder away") } else { error }
    })?;
    let own = match args.kind {
        Kind::Rest => REST,
        Kind::Database => DATABASE,
        Kind::Files => FILES,
    };
    for (path, text) in COMMON.iter().chain(own) {
        let file = folder.join(path);
        let parent = file.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).map_err(|error| cannot("make the folder", parent, error))?;
        let text = name.fill(&dependencies.fill(text));
        std::fs::write(&file, text).map_err(|error| cannot("write", &file, error))?;
    }
    if let Some(lock) = dependencies.lock() {
        // The versions that the checkout was tested with.
        let file = folder.join("Cargo.lock");
        std::fs::copy(&lock, &file).map_err(|error| cannot("copy", &lock, error))?;
    }
    Ok(folder)
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::ConfigInvalid, format!("cannot {what}")).with("path", path.display()).caused_by(error)
}

/// The name of a connector in the three forms that a crate needs.
struct Name {
    /// `my_api`.
    word: String,
    /// `MyApi`.
    kind: String,
    /// `MY_API`.
    constant: String,
}

impl Name {
    fn new(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::config(format!("{text:?} {what}"))
                .hint("write it as acme or acme_billing: a-z, 0-9 and _, a letter first")
        };
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let first = text.chars().next().is_some_and(|c| c.is_ascii_lowercase());
        if !first || !text.chars().all(fine) || text.len() > 40 || text.ends_with('_') || text.contains("__") {
            return Err(wrong("is no name of a connector"));
        }
        let squeezed: String = text.chars().filter(|c| *c != '_').collect();
        if TAKEN.contains(&squeezed.as_str()) {
            return Err(wrong("is the name of something else in every connector"));
        }
        let kind = text.split('_').map(|part| part[..1].to_ascii_uppercase() + &part[1..]).collect();
        Ok(Self { word: text.to_owned(), kind, constant: text.to_ascii_uppercase() })
    }

    fn fill(&self, text: &str) -> String {
        text.replace("acme", &self.word).replace("Acme", &self.kind).replace("ACME", &self.constant)
    }
}

/// Where the crates of `ingest` come from.
enum Dependencies {
    /// A registry, in this program's own version.
    Registry,
    /// A checkout.
    Checkout(PathBuf),
}

impl Dependencies {
    fn of(checkout: Option<&Path>) -> Result<Self> {
        let Some(path) = checkout else { return Ok(Self::Registry) };
        let absolute = path.canonicalize().map_err(|error| cannot("find the checkout", path, error))?;
        match absolute.join("core/Cargo.toml").is_file() && absolute.to_str().is_some() {
            true => Ok(Self::Checkout(absolute)),
            false => Err(Error::config("this folder is no checkout of ingest")
                .with("path", path.display())
                .hint("name the folder that holds `core`, `runner` and `Cargo.lock`")),
        }
    }

    /// Replaces `{{core/http}}` by where that crate comes from.
    fn fill(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, crate_folder, after)) = place(rest) {
            out.push_str(before);
            match self {
                Self::Registry => out.push_str(concat!("version = \"", env!("CARGO_PKG_VERSION"), "\"")),
                Self::Checkout(path) => {
                    let path = path.join(crate_folder).display().to_string();
                    out.push_str(&format!("path = {}", toml_text(&path)));
                }
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// The lock file of a checkout.
    fn lock(&self) -> Option<PathBuf> {
        match self {
            Self::Registry => None,
            Self::Checkout(path) => Some(path.join("Cargo.lock")).filter(|lock| lock.is_file()),
        }
    }
}

/// The next `{{…}}`: what stands before it, in it, after it.
fn place(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (inside, after) = rest.split_once("}}")?;
    // Braces of a format string are no place.
    match inside.starts_with("core") {
        true => Some((before, inside, after)),
        false => None,
    }
}

/// A text of TOML.
fn toml_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str, kind: Kind, path: Option<PathBuf>) -> NewConnectorArgs {
        NewConnectorArgs { name: name.into(), kind, path }
    }

    fn checkout() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout").to_owned()
    }

    #[test]
    fn every_kind_is_written_without_a_place_that_is_not_filled() {
        for (n, kind) in [Kind::Rest, Kind::Database, Kind::Files].into_iter().enumerate() {
            let parent = tempfile::tempdir().expect("a folder");
            let name = format!("shop_{n}");
            let folder = connector(&args(&name, kind, Some(checkout())), parent.path()).expect("written");
            for file in ["Cargo.toml", "Cargo.lock", ".gitignore", "README.md", "conformance.yaml", "src/main.rs"] {
                assert!(folder.join(file).is_file(), "{file}");
            }
            let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
            assert!(manifest.contains(&format!("name = \"ingest-connector-{name}\"")), "{manifest}");
            assert!(manifest.contains(&format!("path = \"{}/core\"", checkout().display())), "{manifest}");
            assert!(!manifest.contains("{{"), "{manifest}");
            let main = std::fs::read_to_string(folder.join("src/main.rs")).expect("a program");
            assert!(main.contains(&format!("ingest_connector_{name}::Shop{n}")), "{main}");
        }
    }

    #[test]
    fn without_a_checkout_the_version_of_this_program_is_taken() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = connector(&args("acme", Kind::Rest, None), parent.path()).expect("written");
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
        assert!(manifest.contains(concat!("version = \"", env!("CARGO_PKG_VERSION"), "\"")), "{manifest}");
        let again = connector(&args("acme", Kind::Rest, None), parent.path()).expect_err("it is there");
        assert_eq!(again.kind(), ErrorKind::ConfigInvalid);
    }

    #[test]
    fn names_that_no_crate_can_have_are_refused() {
        for name in ["", "Acme", "9lives", "a-b", "a b", "../x", "self", "re_sult", "a__b", "a_", "é"] {
            assert!(Name::new(name).is_err(), "{name}");
        }
        assert_eq!(Name::new("my_api2").expect("a name").kind, "MyApi2");
    }

    /// Dependencies outside the workspace are spelled out in templates: they must be of the majors that it uses.
    #[test]
    fn templates_use_the_versions_of_the_workspace() {
        let top = std::fs::read_to_string(checkout().join("Cargo.toml")).expect("the workspace");
        let version = |line: &str| line.split('"').nth(1).map(str::to_owned);
        for (_, text) in [REST[0], DATABASE[0], FILES[0]] {
            for line in text.lines().filter(|line| !line.starts_with("ingest-") && !line.contains("-version")) {
                let Some((name, _)) = line.split_once(" = ") else { continue };
                let prefix = format!("{name} = ");
                let Some(own) = top.lines().find(|own| own.starts_with(&prefix)) else { continue };
                if ["name", "version", "edition", "description", "debug", "path", "publish"].contains(&name) {
                    continue;
                }
                assert_eq!(version(line), version(own), "{line}");
            }
        }
    }

    /// The target: a REST connector of three streams in under 150 lines of the author's own.
    #[test]
    fn the_authors_own_part_of_a_rest_connector_stays_short() {
        let own = REST.iter().filter(|(path, _)| ["src/config.rs", "src/streams.rs", "src/api.rs"].contains(path));
        let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        let lines: usize = own.map(|(_, text)| text.lines().filter(code).count()).sum();
        assert!(lines > 0 && lines < 150, "{lines} lines");
    }
}
