//! Logging in, TLS, grants, and what `check` says.

use ingest_connector_postgres::Postgres as Connector;
use ingest_core::{Builtin, ErrorKind, Problem, Selection, Severity};
use ingest_testkit::certificates::Authority;
use ingest_testkit::conformance::{self, Subject};
use ingest_testkit::postgres::{Options, Postgres};
use serde_json::{Value, json};

use crate::support::{How, Shop, assert_range, fails, open, run, streams};

async fn check(config: &Value) -> Vec<Problem> {
    open(config.clone()).await.expect("a source").check(&Selection::default()).await.expect("a list")
}

fn errors(problems: &[Problem]) -> Vec<&Problem> {
    problems.iter().filter(|problem| problem.severity == Severity::Error).collect()
}

fn set(config: &Value, key: &str, value: impl Into<Value>) -> Value {
    let mut config = config.clone();
    config[key] = value.into();
    config
}

#[tokio::test]
async fn tls_is_verified_by_default_wherever_it_is_used() {
    let (authority, other) = (Authority::new(), Authority::new());
    let options = Options { tls: Some(&authority), ..Options::default() };
    let Some(server) = Postgres::private(&options) else { return };
    server.client("postgres").await.batch_execute("CREATE TABLE t AS SELECT 1 AS id").await.expect("valid SQL");
    let good = json!({"host": "localhost", "port": server.port(), "database": "postgres", "user": "postgres",
        "password": server.password(), "tls_ca": authority.pem()});
    let source = open(good.clone()).await.expect("a source");
    assert_range(&run(&*source, "public.t", &mut How::full()).await.expect("over TLS"), "id", 1, 1);
    for (config, kind) in [
        // The server takes no plaintext.
        (
            json!({"host": "localhost", "port": server.port(), "user": "postgres", "password": server.password()}),
            ErrorKind::Unauthenticated,
        ),
        (set(&good, "tls_ca", other.pem()), ErrorKind::Unauthenticated),
        // The certificate names localhost and no address.
        (set(&good, "host", "127.0.0.1"), ErrorKind::Unauthenticated),
    ] {
        let source = open(config.clone()).await.expect("a source");
        let error = fails(source.schema(&Selection::default()).await);
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.hint_text().is_some(), "{error:?}");
    }
    let by_address = set(&good, "host", "127.0.0.1");
    for tls in ["verify-ca", "require"] {
        let source = open(set(&by_address, "tls", tls)).await.expect("a source");
        assert_eq!(streams(&*source, &[]).await.len(), 1, "{tls}");
    }
    let wrong = set(&set(&by_address, "tls", "verify-ca"), "tls_ca", other.pem());
    let source = open(wrong).await.expect("a source");
    assert_eq!(fails(source.schema(&Selection::default()).await).kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    let authority = Authority::new();
    let options = Options { tls: Some(&authority), client_certificates: true, ..Options::default() };
    let Some(server) = Postgres::private(&options) else { return };
    let client = authority.client();
    let config = json!({"host": "localhost", "port": server.port(), "database": "postgres", "user": "postgres",
        "password": server.password(), "tls_ca": authority.pem()});
    let source = open(config.clone()).await.expect("a source");
    assert!(source.schema(&Selection::default()).await.is_err(), "without a certificate");
    let config = set(&set(&config, "tls_cert", client.certificate), "tls_key", client.key);
    assert!(streams(&*open(config).await.expect("a source"), &[]).await.is_empty());
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let Some(shop) = Shop::new("SELECT 1").await else { return };
    let source =
        open(set(&set(&shop.config, "tls", "verify-full"), "tls_ca", Authority::new().pem())).await.expect("a source");
    let error = fails(source.schema(&Selection::default()).await);
    assert!(error.to_string().contains("does not offer TLS"), "{error}");
}

#[tokio::test]
async fn every_way_to_log_in_works() {
    let rules = [
        "host all md5_user 127.0.0.1/32 md5",
        "host all clear_user 127.0.0.1/32 password",
        "host all trusted 127.0.0.1/32 trust",
    ];
    let Some(server) = Postgres::private(&Options { rules: &rules, ..Options::default() }) else { return };
    server
        .client("postgres")
        .await
        .batch_execute(
            "SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'p''ä'; SET password_encryption = 'scram-sha-256';
             CREATE ROLE clear_user LOGIN PASSWORD 'p''ä'; CREATE ROLE scram_user LOGIN PASSWORD 'p''ä'; CREATE ROLE trusted LOGIN",
        )
        .await
        .expect("valid SQL");
    for user in ["md5_user", "clear_user", "scram_user", "trusted"] {
        let config = json!({"host": "127.0.0.1", "port": server.port(), "database": "postgres", "user": user, "password": "p'ä"});
        assert!(streams(&*open(config.clone()).await.expect("a source"), &[]).await.is_empty(), "{user}");
        if user != "trusted" {
            for wrong in [json!("wrong"), json!("")] {
                let source = open(set(&config, "password", wrong)).await.expect("a source");
                let error = fails(source.schema(&Selection::default()).await);
                assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{user}: {error:?}");
                assert!(!format!("{error:?}").contains("wrong (") && error.hint_text().is_some(), "{error:?}");
            }
        }
    }
    let socket = json!({"host": server.socket().to_str(), "port": server.port(), "database": "postgres", "user": "scram_user", "password": "p'ä"});
    assert!(streams(&*open(socket).await.expect("a source"), &[]).await.is_empty());
}

#[tokio::test]
async fn check_names_every_missing_grant_and_its_remedy() {
    let Some(shop) = Shop::new(
        "CREATE TABLE a (id int); CREATE TABLE b (id int, secret text); CREATE TABLE c (id int); CREATE TABLE d (id int);
         CREATE SCHEMA \"odd\"\"s\"; CREATE TABLE \"odd\"\"s\".e (id int); ALTER TABLE d ENABLE ROW LEVEL SECURITY",
    )
    .await
    else {
        return;
    };
    let role = format!("check_{}", shop.database.name);
    shop.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT SELECT ON c, d TO {role}; GRANT SELECT (id) ON b TO {role}; GRANT SELECT ON \"odd\"\"s\".e TO {role}")).await;
    let config = set(&set(&shop.config, "user", role.as_str()), "password", "pw");
    let problems = check(&config).await;
    let found: Vec<String> = errors(&problems)
        .iter()
        .map(|p| format!("{}: {}", p.stream.as_ref().map_or("-", |s| s.as_str()), p.remedy))
        .collect();
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(
        found.iter().any(|p| p == &format!("public.a: GRANT SELECT ON \"public\".\"a\" TO \"{role}\"")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|p| p == &format!("odd\"s.e: GRANT USAGE ON SCHEMA \"odd\"\"s\" TO \"{role}\"")),
        "{found:?}"
    );
    assert!(problems.iter().any(|p| p.what.contains("columns secret")));
    assert!(errors(&problems).iter().all(|p| p.exit_code == 3));
    assert!(problems.iter().any(|p| p.severity == Severity::Warning && p.remedy.contains("pg_read_all_stats")));
    // The remedies are the remedy.
    for problem in errors(&problems) {
        let statement = problem.remedy.split(", or ").next().expect("a statement");
        shop.sql(statement).await;
    }
    assert!(errors(&check(&config).await).is_empty());
    shop.sql(&format!("GRANT pg_read_all_stats TO {role}")).await;
    assert_eq!(check(&config).await, [], "an account that may read and nothing else");
}

#[tokio::test]
async fn check_warns_of_rights_beyond_reading() {
    let Some(shop) = Shop::new("CREATE TABLE t (id int)").await else { return };
    let problems = check(&shop.config).await;
    assert!(errors(&problems).is_empty());
    assert!(problems[0].what.contains("superuser"), "{problems:?}");
    let role = format!("writer_{}", shop.database.name);
    shop.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT SELECT, UPDATE ON t TO {role}")).await;
    let problems = check(&set(&set(&shop.config, "user", role.as_str()), "password", "pw")).await;
    assert!(problems.iter().any(|p| p.what.contains("may write to public.t")), "{problems:?}");
}

#[tokio::test]
async fn check_says_what_is_wrong_with_reaching_the_server() {
    let Some(shop) = Shop::new("SELECT 1").await else { return };
    for (key, value, exit_code) in [
        ("password", json!("wrong"), 3),
        ("database", json!("nowhere"), 1),
        ("port", json!(1), 1),
        ("user", json!("nobody"), 3),
    ] {
        let problems = check(&set(&shop.config, key, value)).await;
        assert_eq!((problems.len(), problems[0].exit_code), (1, exit_code), "{key}: {problems:?}");
        assert!(!problems[0].remedy.is_empty());
    }
    let problems = check(&shop.config).await;
    assert!(problems.iter().any(|p| p.what.contains("no table matches")), "{problems:?}");
}

#[tokio::test]
async fn rows_that_a_policy_hides_are_an_error_unless_wanted() {
    let Some(shop) = Shop::new("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2); ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (id = 1)").await else { return };
    let role = format!("policy_{}", shop.database.name);
    shop.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT SELECT ON t TO {role}")).await;
    let config = set(&set(&shop.config, "user", role.as_str()), "password", "pw");
    let source = open(config.clone()).await.expect("a source");
    assert_eq!(fails(run(&*source, "public.t", &mut How::full()).await).kind(), ErrorKind::PermissionDenied);
    let source = open(set(&config, "row_security", true)).await.expect("a source");
    assert_range(&run(&*source, "public.t", &mut How::full()).await.expect("a load"), "id", 1, 1);
}

#[tokio::test]
async fn the_connector_passes_the_conformance_suite() {
    // Alone: a transaction that another test holds open would hold up the making of slots.
    let Some(shop) = Shop::alone(
        "CREATE TABLE kinds (id bigserial PRIMARY KEY, updated_at timestamptz NOT NULL DEFAULT now(), flag bool, amount numeric(12,2),
           name text, day date, ratio float8, doc jsonb, uid uuid);
         CREATE INDEX ON kinds (updated_at);
         INSERT INTO kinds (flag, amount, name, day, ratio, doc, uid) SELECT i % 2 = 0, i / 7.0, 'näme ' || i, date '2026-01-01' + i, i / 4.0,
           jsonb_build_object('i', i), md5(i::text)::uuid FROM generate_series(1, 1500) i;
         CREATE TABLE plain AS SELECT i AS id, repeat('x', 50) AS pad FROM generate_series(1, 800) i;
         CREATE TABLE nothing (note bool);
         ALTER TABLE plain REPLICA IDENTITY FULL; ALTER TABLE nothing REPLICA IDENTITY FULL",
    )
    .await
    else {
        return;
    };
    let shop = shop.with("slot", "conformance");
    let (server, name) = (shop.server, shop.database.name.clone());
    let client = std::sync::Arc::new(server.client(&name).await);
    let late = std::sync::Arc::new(server.client(&name).await);
    let secret = server.password().to_owned();
    let (wrong, nowhere) = (set(&shop.config, "password", "wrong"), set(&shop.config, "port", 1));
    let rows = {
        let client = client.clone();
        move |stream: &ingest_core::StreamName| {
            let (client, stream) = (client.clone(), stream.clone());
            async move {
                let sql = format!("SELECT to_jsonb(t)::text FROM {stream} t");
                let rows = client.query(&sql, &[]).await.expect("valid SQL");
                rows.iter().map(|row| oracle_row(&row.get::<_, String>(0))).collect()
            }
        }
    };
    let insert = |client: std::sync::Arc<tokio_postgres::Client>, sql: &'static str| {
        move || {
            let client = client.clone();
            async move { client.batch_execute(sql).await.expect("valid SQL") }
        }
    };
    let subject = Subject::new(Builtin::<Connector>::new(), shop.config.clone())
        .empty("public.nothing")
        .refused("wrong password", wrong, ErrorKind::Unauthenticated)
        .refused("nobody listens", nowhere, ErrorKind::Unavailable)
        .secret(&secret)
        .counterpart("PostgreSQL 15")
        .filtered("public.plain", "id <= 10", 10)
        .skip("F01", "a server behind a proxy that fails in every way is in faults.rs")
        .truth(rows)
        .change(insert(
            client.clone(),
            "INSERT INTO kinds (name) SELECT 'new' FROM generate_series(1, 5); INSERT INTO plain SELECT max(id) + 1, 'new' FROM plain",
        ))
        .lose_log(insert(client.clone(), "SELECT pg_drop_replication_slot('conformance')"))
        .late(
            insert(late.clone(), "BEGIN; INSERT INTO kinds (name) VALUES ('late'); INSERT INTO plain SELECT max(id) + 1, 'late' FROM plain"),
            insert(late.clone(), "COMMIT"),
        );
    conformance::run(subject).await.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}

/// The columns of which JSON says the same as Arrow.
fn oracle_row(json: &str) -> serde_json::Map<String, Value> {
    let Value::Object(row) = serde_json::from_str(json).expect("JSON") else { panic!("an object") };
    let row = row.into_iter().filter(|(key, _)| ["id", "flag", "name", "day", "uid", "pad"].contains(&key.as_str()));
    row.collect()
}
