//! Who may connect how, and what `check` says about it.

use ingest_connector_mysql::Mysql as Connector;
use ingest_core::{Builtin, Context, ErrorKind, Factory, Json, Problem, Selection, Severity};
use ingest_testkit::certificates::Authority;
use ingest_testkit::mysql::{Flavour, Mysql, Options, PASSWORD};
use serde_json::json;

use crate::support::{How, Shop, assert_range, fails, open, run, streams};

async fn check(config: &Json) -> Vec<Problem> {
    let source = open(config.clone()).await.expect("a valid configuration");
    source.check(&Selection::default()).await.expect("a list of problems")
}

fn errors(problems: &[Problem]) -> Vec<&Problem> {
    problems.iter().filter(|problem| problem.severity == Severity::Error).collect()
}

fn set(config: &Json, key: &str, value: impl Into<Json>) -> Json {
    let mut config = config.clone();
    config[key] = value.into();
    config
}

#[tokio::test]
async fn tls_is_verified_unless_it_is_told_otherwise() {
    let authority = Authority::new();
    let options = Options { tls: Some(&authority), ..Options::default() };
    let Some(server) = Mysql::private(Flavour::MariaDb, &options) else { return };
    let database = server.database().await;
    database.sql("CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let config = json!({"host": "localhost", "port": server.port(), "user": "root", "password": PASSWORD});
    let table = format!("{}.t", database.name);
    let good = set(&set(&config, "tls_ca", authority.pem()), "tls", "verify-full");
    let source = open(good.clone()).await.expect("a source");
    assert_range(&run(&*source, &table, &mut How::full()).await.expect("rows"), "id", 1, 1);
    let other = Authority::new();
    for (config, kind) in [
        (set(&good, "tls_ca", other.pem()), Some(ErrorKind::Unauthenticated)),
        (set(&good, "host", "127.0.0.1"), Some(ErrorKind::Unauthenticated)),
        (set(&set(&good, "host", "127.0.0.1"), "tls", "verify-ca"), None),
        (set(&set(&good, "tls_ca", other.pem()), "tls", "verify-ca"), Some(ErrorKind::Unauthenticated)),
        (set(&set(&good, "tls_ca", other.pem()), "tls", "require"), None),
        (set(&config, "tls", "danger_plaintext"), Some(ErrorKind::Unauthenticated)),
    ] {
        let source = open(config.clone()).await.expect("a source");
        let found = source.schema(&Selection::default()).await;
        assert_eq!(found.as_ref().err().map(ingest_core::Error::kind), kind, "{config}: {found:?}");
    }
}

#[tokio::test]
async fn tls_of_a_server_that_has_none_is_refused() {
    let Some(shop) = Shop::on(Flavour::MariaDb, "SELECT 1").await else { return };
    let authority = Authority::new();
    let source = open(set(&shop.config, "tls_ca", authority.pem())).await.expect("a source");
    let error = fails(source.schema(&Selection::default()).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("danger_plaintext")), "{error:?}");
}

#[tokio::test]
async fn a_unix_socket_is_a_host() {
    for shop in Shop::each("CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1)").await {
        let socket = shop.server.socket().to_str().expect("UTF-8").to_owned();
        let source = open(set(&shop.config, "host", socket)).await.expect("a source");
        let batches = run(&*source, &shop.stream("t"), &mut How::full()).await.expect("rows");
        assert_range(&batches, "id", 1, 1);
    }
}

#[tokio::test]
async fn check_names_every_missing_grant_with_the_statement() {
    for shop in Shop::each("CREATE TABLE a (id INT, secret INT); CREATE TABLE b (id INT)").await {
        let (user, name) = (format!("reader_{}", shop.database.name), &shop.database.name);
        shop.sql(&format!(
            "CREATE USER {user}@'%' IDENTIFIED BY 'pw'; GRANT SELECT (id) ON {name}.a TO {user}@'%'; GRANT INSERT ON {name}.b TO {user}@'%'"
        ))
        .await;
        let config = set(&set(&shop.config, "user", user.as_str()), "password", "pw");
        let problems = check(&config).await;
        let remedies: Vec<&str> = errors(&problems).iter().map(|problem| problem.remedy.as_str()).collect();
        // A column without a grant is not seen at all.
        assert_eq!(remedies.len(), 1, "{problems:#?}");
        assert!(problems.iter().any(|p| p.what.contains("may write to")), "{problems:#?}");
        assert!(problems.iter().any(|p| p.remedy.contains("GRANT PROCESS")), "{problems:#?}");
        for statement in remedies {
            let statement = statement.split(", or name").next().expect("a statement");
            assert!(statement.starts_with("GRANT SELECT ON"), "{statement}");
            shop.sql(statement).await;
        }
        shop.sql(&format!("GRANT PROCESS ON *.* TO {user}@'%'; REVOKE INSERT ON {name}.b FROM {user}@'%'; GRANT SELECT ON {name}.b TO {user}@'%'")).await;
        assert_eq!(check(&config).await, [], "an account that may read and nothing else, on {:?}", shop.flavour());
    }
}

#[tokio::test]
async fn check_says_what_is_wrong_with_reaching_the_server() {
    for shop in Shop::each("SELECT 1").await {
        for (key, value, exit_code) in
            [("password", json!("wrong"), 3), ("port", json!(1), 1), ("user", json!("nobody"), 3)]
        {
            let problems = check(&set(&shop.config, key, value)).await;
            assert_eq!((problems.len(), problems[0].exit_code), (1, exit_code), "{key}: {problems:?}");
            assert!(!problems[0].remedy.is_empty());
        }
        let problems = check(&shop.config).await;
        assert!(problems.iter().any(|p| p.what.contains("no table matches")), "{problems:?}");
        let source = shop.open().await;
        shop.sql("CREATE TABLE orders (id INT)").await;
        let selection = Selection { select: vec![shop.stream("ordres")], exclude: vec![] };
        let problems = source.check(&selection).await.expect("problems");
        assert!(problems.iter().any(|p| p.severity == Severity::Error), "{problems:?}");
    }
}

#[tokio::test]
async fn without_a_database_all_that_may_be_read_is_listed() {
    for shop in Shop::each("CREATE TABLE only_here (id INT)").await {
        let mut config = shop.config.clone();
        config.as_object_mut().expect("an object").remove("database");
        let source = open(config).await.expect("a source");
        let stream = shop.stream("only_here");
        assert_eq!(streams(&*source, &[&stream]).await.len(), 1);
        let all = streams(&*source, &[]).await;
        assert!(all.iter().all(|s| !s.name.as_str().starts_with("mysql.")), "the server's own are left out");
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_before_anything_connects() {
    let config = json!({"host": "h", "user": "u", "passwort": "canary"});
    let error = fails(Builtin::<Connector>::new().open(config, Context::standalone("shop")).await.map(drop));
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(!format!("{error:?}").contains("canary"));
}
