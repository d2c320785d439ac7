use ingest_core::{Capabilities, Context, Deletes, Error, Factory, Mode, Replay, Result, Source, async_trait};
use serde_json::json;

use super::*;

/// A connector that only has a schema.
struct Shop;

#[async_trait]
impl Factory for Shop {
    fn spec(&self) -> Spec {
        Spec {
            name: "shop".into(),
            version: "0".into(),
            title: "Shop".into(),
            docs: String::new(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Full],
                deletes: Deletes::Unseen,
                replay: Replay::Always,
                parallel: 1,
                portable: false,
                projection: false,
                filter: false,
            },
            config: Some(json!({
                "type": "object", "additionalProperties": false, "required": ["host"],
                "properties": {
                    "host": {"type": "string", "description": "Where the server is."},
                    "port": {"type": "integer", "minimum": 0, "maximum": 65535},
                    "password": {"type": "string", "writeOnly": true},
                    "tls_ca": {"type": ["string", "null"]},
                    "options": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            })),
        }
    }

    async fn open(&self, _: Json, _: Context) -> Result<Box<dyn Source>> {
        Err(Error::unexpected("only its schema is used"))
    }
}

struct Case {
    folder: tempfile::TempDir,
    options: LoadOptions,
}

impl Case {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ingest.yaml"), text).expect("written");
        let options = LoadOptions { folder: folder.path().to_owned(), ..LoadOptions::default() };
        Self { folder, options }
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.folder.path().join(name), text).expect("written");
        self
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.options.environment.insert(name.into(), value.into());
        self
    }

    fn source(mut self, name: &str) -> Self {
        self.options.source = Some(name.into());
        self
    }

    fn env(mut self, name: &str) -> Self {
        self.options.env = Some(name.into());
        self
    }

    fn load(&self) -> Result<Loaded, Vec<ConfigProblem>> {
        Config::load(&self.options, &Registry::empty().with_factory("shop", Arc::new(Shop)))
    }

    fn good(&self) -> Loaded {
        self.load().unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    fn problems(&self) -> Vec<String> {
        let problems = self.load().expect_err("problems");
        let text = |p: &ConfigProblem| match &p.hint {
            Some(hint) => format!("{p} ({hint})"),
            None => p.to_string(),
        };
        problems.iter().map(text).collect()
    }
}

#[test]
fn all_problems_come_at_once_each_with_file_line_and_key() {
    let case = Case::new(
        "lake: {urll: ./lake, format: iceberg}\n\
         memory: lots\n\
         sources:\n\
         \x20 db:\n\
         \x20   connector: shopp\n\
         \x20   streams: {a: {mod: full}}\n\
         \x20 shop:\n\
         \x20   hots: x\n\
         \x20   port: high\n\
         \x20   port: 5\n\
         \x20   password: 12345\n\
         \x20   streams:\n\
         \x20     orders: {write: merge, mode: cdc, cursor: [a], mask: {email: hsh}}\n\
         \x20     returns: {on_schema_change: evolv}\n\
         extra: 1\n\
         mask_key: [1]\n",
    )
    .set("KEY", "k");
    assert_eq!(
        case.problems(),
        [
            "ingest.yaml:1: lake.urll: unknown key (did you mean `url`?)",
            "ingest.yaml:2: memory: \"lots\" is not a valid value (write e.g. 512MiB)",
            "ingest.yaml:5: sources.db.connector: there is no connector \"shopp\" (did you mean `shop`? built in: shop)",
            "ingest.yaml:6: sources.db.streams.a.mod: unknown key (did you mean `mode`?)",
            "ingest.yaml:7: sources.shop.host: this key is required (Where the server is.)",
            "ingest.yaml:8: sources.shop.hots: unknown key (did you mean `host`?)",
            "ingest.yaml:9: sources.shop.port: expected a whole number, found a text",
            "ingest.yaml:10: sources.shop.port: this key was given before, on line 9",
            "ingest.yaml:11: sources.shop.password: expected a text, found a number (put it in quotes)",
            "ingest.yaml:13: sources.shop.streams.orders.cursor: expected a text, found a list",
            "ingest.yaml:13: sources.shop.streams.orders.mask.email: \"hsh\" is not one of drop, null, redact, partial, hash, token, keep (did you mean `hash`?)",
            "ingest.yaml:14: sources.shop.streams.returns.on_schema_change: \"evolv\" is not one of evolve, freeze, rescue, fail (did you mean `evolve`?)",
            "ingest.yaml:15: extra: unknown key (known keys: lake, mask_key, memory, policies, sources)",
            "ingest.yaml:16: mask_key: expected a text, found a list",
        ]
    );
}

#[test]
fn masks_checks_and_policies_are_read_and_what_is_wrong_has_a_place() {
    let text = "mask_key: ${KEY}\n\
                policies: {require_classification: true, mask: {pii: hash}}\n\
                sources:\n\
                \x20 shop:\n\
                \x20   host: h\n\
                \x20   streams:\n\
                \x20     orders:\n\
                \x20       mask: {a: hash, b: null, c: {partial: 2}, \"d.*\": {generalize: 10}}\n\
                \x20       checks:\n\
                \x20         - {column: id, not_null: true, on_fail: fail}\n\
                \x20         - {column: credit, range: {min: 0, max: 100000}, on_fail: quarantine, tolerate: 1%}\n\
                \x20         - {column: status, accepted_values: [active, closed]}\n";
    let loaded = Case::new(text).set("KEY", "canary").source("shop").good();
    let shop = &loaded.config.sources["shop"];
    assert_eq!(shop.common.mask_key.as_ref().map(ingest_core::Secret::expose), Some("canary"));
    assert!(shop.common.policies.require_classification);
    let options = shop.options_of("orders").expect("configured");
    assert_eq!(options.mask.as_ref().map(std::collections::BTreeMap::len), Some(4));
    let labels: Vec<String> = options.checks.iter().flatten().map(super::super::CheckOptions::label).collect();
    assert_eq!(labels, ["not_null(id)", "range(credit)", "accepted_values(status)"]);
    assert_eq!(shop.place("orders", "mask.c").0.to_string(), "ingest.yaml:8");
    assert_eq!(shop.place("orders", "checks.1.range").0.to_string(), "ingest.yaml:11");
    assert!(!masked(&loaded).to_string().contains("canary"));
    // Looking at the lake needs no key.
    assert!(Case::new(text).good().config.common.mask_key.is_none());

    let wrong = Case::new(
        "sources:\n  shop:\n    host: h\n    streams:\n      orders:\n        checks:\n          - {column: id}\n\
         \x20         - {column: id, regex: \"(\"}\n          - {sql: \"count(id) > 0\"}\n\
         \x20         - {row_count: {min: 1}, on_fail: quarantine}\n",
    );
    assert_eq!(
        wrong.problems(),
        [
            "ingest.yaml:7: sources.shop.streams.orders.checks.0: this check checks nothing: write e.g. `{column: id, not_null: true}`",
            "ingest.yaml:8: sources.shop.streams.orders.checks.1.regex: the expression cannot be read: unclosed group",
            if cfg!(feature = "sql") {
                "ingest.yaml:9: sources.shop.streams.orders.checks.2.sql: count is about several rows (a condition sees one row: `row_count`, `unique` and `volume` look at all of them)"
            } else {
                "ingest.yaml:9: sources.shop.streams.orders.checks.2.sql: this program was built without checks in SQL (build it with `cargo build -p ingest-runner --features sql`, or write the check otherwise)"
            },
            "ingest.yaml:10: sources.shop.streams.orders.checks.3.on_fail: row_count is about no single rows: write warn or fail",
        ]
    );
}

#[test]
fn a_table_format_that_is_not_built_in_is_a_problem() {
    let case = Case::new("lake:\n  format: iceberg\n");
    assert_eq!(
        case.problems(),
        [
            "ingest.yaml:2: lake.format: the table format iceberg is not built in yet (remove it: this build would not honour it)"
        ]
    );
}

#[test]
fn overlay_and_environment_win_over_the_file() {
    let case =
        Case::new("memory: 64MiB\nsources: {shop: {host: a, port: 1, streams: {\"public.*\": {}, x: {mode: full}}}}\n")
            .file("ingest.prod.yaml", "memory: 1GiB\nsources: {shop: {host: b, streams: {x: {cursor: c}}}}\n")
            .set("INGEST__SOURCES__SHOP__PORT", "99")
            .set("INGEST__SOURCES__SHOP__STREAMS__PUBLIC____KEY", "ignored: names no key")
            .set("INGEST__SOURCES__SHOP__OPTIONS", "{a: 1}")
            .set("INGEST__LAKE__OPTIONS__AWS_REGION", "eu-west-1")
            .env("prod");
    assert!(case.load().is_err(), "the variable with an empty word is refused");
    let mut case = case;
    case.options.environment.remove("INGEST__SOURCES__SHOP__STREAMS__PUBLIC____KEY");
    let loaded = case.good();
    assert_eq!(loaded.config.memory.0, 1 << 30);
    let shop = &loaded.config.sources["shop"];
    assert_eq!(shop.fields, json!({"host": "b", "port": 99, "options": {"a": "1"}}));
    assert_eq!(shop.streams.len(), 2);
    assert_eq!((shop.streams[1].1.mode, shop.streams[1].1.cursor.as_deref()), (Some(Mode::Full), Some("c")));
    assert_eq!(loaded.config.lake.options["aws_region"], "eu-west-1");
    let origin = |path: &str| loaded.facts.origins[path].to_string();
    assert_eq!(origin("sources.shop.host"), "ingest.prod.yaml:2");
    assert_eq!(origin("sources.shop.port"), "INGEST__SOURCES__SHOP__PORT");
    assert_eq!(origin("sources.shop.streams.x.mode"), "ingest.yaml:2");
}

#[test]
fn a_missing_overlay_names_the_nearest_one() {
    let case = Case::new("").file("ingest.prod.yaml", "").env("prd");
    let problems = case.problems();
    assert!(problems[0].contains("ingest.prd.yaml") && problems[0].ends_with("(did you mean `prod`?)"), "{problems:?}");
    assert!(Case::new("").env("../x").problems()[0].contains("no name of an environment"));
}

#[test]
fn the_file_is_found_upwards_and_relative_paths_start_there() {
    let mut case = Case::new("lake: {url: ./lake}\nsources: {shop: {host: h, tls_ca: certs/ca.pem}}\n");
    let deep = case.folder.path().join("a/b");
    std::fs::create_dir_all(&deep).expect("folders");
    case.options.folder = deep.clone();
    let loaded = case.good();
    let root = case.folder.path();
    assert_eq!(loaded.config.file.as_deref(), Some(root.join("ingest.yaml").as_path()));
    assert_eq!(loaded.config.lake.url, root.join("lake").to_string_lossy());
    assert_eq!(loaded.config.sources["shop"].fields["tls_ca"], root.join("certs/ca.pem").to_string_lossy().as_ref());
    case.options.config = Some("none.yaml".into());
    assert!(case.problems()[0].contains("no configuration file none.yaml"));
}

#[test]
fn without_a_file_the_defaults_rule() {
    let folder = tempfile::tempdir().expect("a folder");
    let options =
        LoadOptions { folder: folder.path().to_owned(), source: Some("shop".into()), ..LoadOptions::default() };
    let registry = Registry::empty().with_factory("shop", Arc::new(Shop));
    let problems = Config::load(&options, &registry).expect_err("host is missing");
    assert_eq!(problems[0].to_string(), "sources.shop.host: this key is required");
    let environment = BTreeMap::from([("INGEST__SOURCES__SHOP__HOST".to_owned(), "h".to_owned())]);
    let loaded = Config::load(&LoadOptions { environment, ..options.clone() }, &registry).expect("complete");
    assert_eq!(loaded.config.sources["shop"].fields, json!({"host": "h"}));
    assert!(loaded.config.file.is_none());
    let options = LoadOptions { source: Some("shpo".into()), ..options };
    let problems = Config::load(&options, &registry).expect_err("no such source");
    assert_eq!(problems[0].hint.as_deref(), Some("did you mean `shop`?"));
}

#[test]
fn only_the_source_that_is_opened_needs_its_references() {
    let text =
        "sources:\n  shop: {host: \"${HOST}\", port: \"${PORT}\"}\n  other: {connector: shop, host: \"${OTHER}\"}\n";
    let case = Case::new(text).set("HOST", "h").set("PORT", "5").source("shop");
    assert_eq!(case.good().config.sources["shop"].fields, json!({"host": "h", "port": 5}));
    let problems = Case::new(text).source("other").problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("sources.other.host: the environment variable OTHER is not set"), "{problems:?}");
}

#[test]
fn a_secret_is_never_quoted() {
    let case = Case::new("sources:\n  shop: {host: [1], password: [canary], port: \"${P}\"}\n  b: {connector: shop, password: {canary: canary}}\n")
        .set("P", "canary")
        .source("shop");
    let all = case.problems().join("\n");
    assert!(all.contains("sources.shop.port") && all.contains("sources.shop.password"), "{all}");
    // The key of a map is not a value; it is what the file says where a text belongs.
    assert!(!all.replace("sources.b.password.canary", "").contains("canary"), "{all}");
}

#[test]
fn the_masked_form_shows_no_secret() {
    let case = Case::new(
        "lake: {url: \"s3://user:canary@bucket/x?sig=canary\", options: {aws_secret_access_key: canary, region: r}}\n\
         sources: {shop: {host: h, password: canary, options: {api_token: canary, colour: red}}}\n",
    );
    let loaded = case.good();
    let text = masked(&loaded).to_string();
    assert!(!text.contains("canary"), "{text}");
    assert!(text.contains("red") && text.contains("\"region\":\"r\""));
}

#[test]
fn sources_that_share_a_folder_are_refused() {
    let case = Case::new("sources: {shop: {host: h}, SHOP: {connector: shop, host: h}}\n");
    assert!(case.problems()[0].contains("is also that of \"shop\""));
}

#[test]
fn empty_sections_are_the_defaults() {
    let loaded = Case::new("lake:\nmemory:\nsources:\n").load();
    let problems = loaded.expect_err("memory has no value");
    assert_eq!(problems.len(), 1, "{problems:?}");
    let loaded = Case::new("lake:\nsources:\n  shop:\n    host: h\n    streams:\n      orders:\n").good();
    assert_eq!(loaded.config.sources["shop"].streams[0].1, StreamOptions::default());
}

#[test]
fn broken_files_are_reported_and_never_panic() {
    for text in ["[1, 2]", "a: [", "\u{0}", "- a\n- b", "x", "{a: b}\n---\n{c: d}\n", "a: *b\n", "? [a]\n: b\n"] {
        assert!(Case::new(text).load().is_err(), "{text:?}");
    }
}
