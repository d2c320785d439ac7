//! Who may connect how, what `check` says about it, and what goes wrong on the way.

use ingest_core::{ErrorKind, Json, Problem, Selection, Severity};
use ingest_testkit::certificates::Authority;
use ingest_testkit::proxy::{Accept, Faults, Proxy};
use ingest_testkit::sqlserver::{Fault, PASSWORD, Script, TOKEN, USER};
use serde_json::json;

use crate::support::{How, Shop, assert_range, fails, numbered, open, plan, read, run, streams};

const TABLE: &str = "CREATE TABLE $.t (id int PRIMARY KEY);\nINSERT INTO $.t (id) VALUES (1)";

fn set(config: &Json, key: &str, value: impl Into<Json>) -> Json {
    let mut config = config.clone();
    config[key] = value.into();
    config
}

async fn check(config: &Json) -> Vec<Problem> {
    let source = open(config.clone()).await.expect("a valid configuration");
    source.check(&Selection::default()).await.expect("a list of problems")
}

#[tokio::test]
async fn tls_is_verified_unless_it_is_told_otherwise_on_the_script() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Script::with_tls(authority.server(&["localhost"])).await;
    server.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t (id) VALUES (1)");
    let config = json!({"host": "localhost", "port": server.port(), "user": USER, "password": PASSWORD});
    let good = set(&config, "tls_ca", authority.pem());
    let source = open(good.clone()).await.expect("a source");
    assert_range(&run(&*source, "dbo.t", &mut How::full()).await.expect("rows"), "id", 1, 1);
    for (config, kind) in [
        (set(&good, "tls_ca", other.pem()), Some(ErrorKind::Unauthenticated)),
        (set(&good, "host", "127.0.0.1"), Some(ErrorKind::Unauthenticated)),
        (set(&config, "tls", "verify-full"), Some(ErrorKind::Unauthenticated)),
        (set(&config, "tls", "require"), None),
        (set(&config, "tls", "danger_plaintext"), None),
    ] {
        let source = open(config.clone()).await.expect("a source");
        let found = source.schema(&Selection::default()).await;
        assert_eq!(found.as_ref().err().map(ingest_core::Error::kind), kind, "{config}: {found:?}");
    }
}

#[tokio::test]
async fn tls_of_a_server_that_has_none_is_refused_on_the_script() {
    let shop = Shop::scripted(TABLE).await.with("tls", "require");
    let error = fails(shop.open().await.schema(&Selection::default()).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("danger_plaintext")), "{error:?}");
}

#[tokio::test]
async fn an_access_token_logs_in_over_tls_on_the_script() {
    let authority = Authority::new();
    let server = Script::with_tls(authority.server(&["localhost"])).await;
    server.sql("CREATE TABLE t (id int PRIMARY KEY)");
    let config = json!({"host": "localhost", "port": server.port(), "tls_ca": authority.pem(), "access_token": TOKEN});
    let source = open(config.clone()).await.expect("a source");
    assert_eq!(source.schema(&Selection::default()).await.expect("streams").len(), 1);
    let source = open(set(&config, "access_token", "another")).await.expect("a source");
    let error = fails(source.schema(&Selection::default()).await);
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(!format!("{error:?}").contains("another"));
}

#[tokio::test]
async fn a_named_instance_is_found_through_its_browser_on_the_script() {
    let shop = Shop::scripted(TABLE).await;
    let port = shop.script().browser("SHOP").await;
    let source = open(set(&set(&shop.config, "instance", "SHOP"), "port", port)).await.expect("a source");
    assert_eq!(source.schema(&Selection::default()).await.expect("streams").len(), 1);
    let port = shop.script().browser("ANOTHER").await;
    let source = open(set(&set(&shop.config, "instance", "SHOP"), "port", port)).await.expect("a source");
    let error = fails(source.schema(&Selection::default()).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("Browser"), "{error:?}");
}

#[tokio::test]
async fn check_names_every_missing_right_with_the_statement_on_the_script() {
    let shop = Shop::scripted("CREATE TABLE $.a (id int);\nCREATE TABLE $.b (id int)").await;
    assert!(check(&shop.config).await.is_empty());
    {
        let mut state = shop.script().state();
        state.snapshot = false;
        state.sees_all = false;
        state.writable = true;
        state.denied.insert("shop.a".into());
    }
    let problems = check(&shop.config).await;
    let said = |text: &str| problems.iter().any(|p| p.what.contains(text) || p.remedy.contains(text));
    for text in [
        "it may write to shop.a, shop.b",
        "GRANT VIEW SERVER STATE",
        "ALTER DATABASE [shop] SET ALLOW_SNAPSHOT_ISOLATION ON",
        "GRANT SELECT ON [shop].[a] TO [reader]",
    ] {
        assert!(said(text), "{text} is missing in {problems:?}");
    }
    let errors: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let error = fails(run(&*shop.open().await, "shop.a", &mut How::full()).await);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
}

#[tokio::test]
async fn faults_of_the_server_are_errors_of_their_kind_on_the_script() {
    let shop = Shop::scripted(TABLE).await.with("timeout", "5s");
    let stream = shop.stream("t");
    let source = shop.open().await;
    let plan = plan(&*source, &streams(&*source, &[&stream]).await, &How::full()).await.expect("a plan");
    for (fault, kind) in [
        (Fault::error(1_205, "deadlock"), ErrorKind::Unavailable),
        (Fault::error(1_222, "lock timeout"), ErrorKind::Timeout),
        (Fault::error(40_501, "the service is busy"), ErrorKind::RateLimited),
        (Fault::error(241, "Conversion failed: 'canary'"), ErrorKind::DataInvalid),
        (Fault::close(), ErrorKind::Unavailable),
        (Fault::silence(), ErrorKind::Timeout),
    ] {
        shop.script().state().fault("FROM [shop].[t]", fault);
        let error = fails(read(&*source, &plan.slices[0], None, &How::full()).await);
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    assert_eq!(read(&*source, &plan.slices[0], None, &How::full()).await.expect("a slice").rows(), 1);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_never_a_whole_slice() {
    let rows = numbered("$.t", "id, name", 10_000, |i| format!("{i}, N'{}'", "x".repeat(100)));
    let shop = Shop::new(&format!("CREATE TABLE $.t (id int PRIMARY KEY, name nvarchar(200));\n{rows}")).await;
    let upstream = format!("{}:{}", shop.config["host"].as_str().expect("a host"), shop.config["port"]);
    let proxy = Proxy::start(upstream).await.expect("a proxy");
    let shop = shop.with("host", "127.0.0.1").with("port", proxy.port());
    let source = shop.open().await;
    let plan = plan(&*source, &streams(&*source, &[&shop.stream("t")]).await, &How::full()).await.expect("a plan");
    for after in [20, 1_000, 100_000, 1_000_000, 2_000_000] {
        for orderly in [true, false] {
            proxy.set(match orderly {
                true => Faults { close_after: Some(after), ..Faults::none() },
                false => Faults { reset_after: Some(after), ..Faults::none() },
            });
            let other = open(shop.config.clone()).await.expect("a source");
            let error = fails(read(&*other, &plan.slices[0], None, &How::full()).await);
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{after} {orderly}: {error:?}");
            proxy.heal();
        }
    }
    let other = shop.open().await;
    assert_eq!(read(&*other, &plan.slices[0], None, &How::full()).await.expect("a slice").rows(), 10_000);
    proxy.set(Faults { accept: Accept::Silent, ..Faults::none() });
    let source = open(set(&shop.config, "connect_timeout", "1s")).await.expect("a source");
    let error = fails(source.schema(&Selection::default()).await);
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
}
