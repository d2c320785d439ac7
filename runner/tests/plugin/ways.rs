//! One connector in three ways.

use ingest_core::{Builtin, ErrorKind, Factory};
use ingest_runner::plugin::Executable;
use ingest_testkit::conformance::{self, Subject};
use serde_json::json;

use super::orders::Orders;
use super::{Shop, error, in_python, program};

#[tokio::test(flavor = "multi_thread")]
async fn linked_in_as_a_program_and_in_python_give_equal_tables() {
    let config = json!({"rows": 7_001, "page_size": 333, "password": "open sesame"});
    let linked = Shop::new(Builtin::<Orders>::new(), config.clone());
    assert_eq!(linked.run().await.exit_code, 0);
    let truth = linked.rows("orders").await.expect("rows");
    assert_eq!(truth.num_rows(), 7_001);

    let folder = tempfile::tempdir().expect("a folder");
    for path in [Some(program()), in_python(folder.path())].into_iter().flatten() {
        let shop = Shop::new(Executable::at(&path).expect("a plug-in"), config.clone());
        let report = shop.run().await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        assert_eq!(shop.rows("orders").await.expect("rows"), truth, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_goes_on_where_the_last_run_ended() {
    let executable = Executable::at(program()).expect("a plug-in");
    let mut shop = Shop::new(executable, json!({"rows": 0, "changes": 700, "page_size": 100}));
    assert_eq!(shop.run().await.exit_code, 0);
    shop.fields["changes"] = 1_000.into();
    let report = shop.run().await;
    let read = report.streams.iter().find(|stream| stream.stream == "changes").map(|stream| stream.rows_read);
    assert_eq!((report.exit_code, read), (0, Some(300)));
    assert_eq!(shop.rows("changes").await.expect("rows").num_rows(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_schemas_are_those_of_the_connector() {
    let folder = tempfile::tempdir().expect("a folder");
    let linked = Builtin::<Orders>::new().spec();
    for path in [Some(program()), in_python(folder.path())].into_iter().flatten() {
        let executable = Executable::at(&path).expect("a plug-in");
        let spec = executable.spec();
        assert_eq!((&spec.name, &spec.title, spec.state_version), (&linked.name, &linked.title, linked.state_version));
        let open = async |config| {
            let opened = executable.open(config, ingest_core::Context::standalone("shop")).await;
            opened.err().map(|error| (error.kind(), format!("{error:?} {:?}", error.hint_text())))
        };
        let (kind, text) = open(json!({"password": "a wrong one"})).await.expect("refused");
        assert_eq!(kind, ErrorKind::Unauthenticated);
        assert!(text.contains("ask the shop") && !text.contains("a wrong one"), "{text}");
        let (kind, text) = open(json!({"rowz": 7, "page_size": "many"})).await.expect("refused");
        assert_eq!(kind, ErrorKind::ConfigInvalid);
        assert!(text.contains("sources.shop.rowz") && text.contains("sources.shop.page_size"), "{text}");
        assert_eq!(open(json!({"rows": 1})).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_in_passes_the_suite_as_the_connector_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = json!({"rows": 500, "page_size": 40, "password": "open sesame"});
    let mut with_a_feed = config.clone();
    with_a_feed["changes"] = 300.into();
    for (path, config) in [(Some(program()), with_a_feed), (in_python(folder.path()), config)] {
        let Some(path) = path else { continue };
        let subject = Subject::new(Executable::at(&path).expect("a plug-in"), config)
            .refused("a wrong password", json!({"password": "sesame"}), ErrorKind::Unauthenticated)
            .skip_what_is_not_given(
                "the source is arithmetic: nobody changes it, and it has no server that could fail",
            );
        conformance::run(subject).await.assert_passed();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_error_of_its_call_and_the_process_lives_on() {
    let executable = Executable::at(program()).expect("a plug-in");
    let shop = Shop::new(executable, json!({"rows": 10, "panic_at": 5}));
    let (kind, text) = error(&shop.run().await);
    assert_eq!(kind, "Unexpected");
    assert!(text.contains("the connector panicked"), "{text}");
}
