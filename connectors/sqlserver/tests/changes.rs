//! Change capture: the log of changes, replayed by its order, is the source. All on the script: a server captures when its own job
//! comes to it.

use ingest_core::{ErrorKind, Severity, StreamName};
use ingest_testkit::capture::{Capture, loaded};

use crate::support::{Shop, fails, numbered};

/// Statements that set change capture up for tables.
fn captured(tables: &[&str]) -> String {
    let table = |table: &&str| {
        format!("EXEC sys.sp_cdc_enable_table @source_schema = N'$', @source_name = N'{table}', @role_name = NULL")
    };
    let mut sql = vec!["EXEC sys.sp_cdc_enable_db".to_owned()];
    sql.extend(tables.iter().map(table));
    sql.join(";\n")
}

const TABLES: &str = "CREATE TABLE $.a (id int PRIMARY KEY, name nvarchar(50) NOT NULL, price money, at datetime2(3));
CREATE TABLE $.b (id int PRIMARY KEY, note nvarchar(50))";

async fn shop() -> Shop {
    let a =
        numbered("$.a", "id, name, price, at", 1_200, |i| format!("{i}, N'n{i}', {i}.5, N'2024-01-01T00:00:00.123'"));
    let b = numbered("$.b", "id, note", 100, |i| format!("{i}, N'b{i}'"));
    Shop::scripted(&format!("{TABLES};\n{};\n{a};\n{b}", captured(&["a", "b"]))).await
}

#[tokio::test]
async fn a_load_and_its_changes_are_the_source_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [shop.stream("a"), shop.stream("b")];
    let columns = ["id", "name", "price", "at"];
    let mut capture = Capture::default();
    let during = async || {
        shop.sql("UPDATE $.a SET name = N'während' WHERE id = 7;\nDELETE FROM $.a WHERE id = 8;\nINSERT INTO $.b (id, note) VALUES (101, N'new')").await;
    };
    capture.run_while(&*source, &names, during).await.expect("a run");
    for round in 0..3 {
        assert_eq!(
            capture.replay(&names[0], "id", &columns),
            loaded(&*source, &names[0], "id", &columns).await,
            "round {round}"
        );
        assert_eq!(
            capture.replay(&names[1], "id", &["id", "note"]),
            loaded(&*source, &names[1], "id", &["id", "note"]).await
        );
        shop.sql(&format!(
            "UPDATE $.a SET id = {} WHERE id = {};\nUPDATE $.a SET price = NULL WHERE id < 20;\nDELETE FROM $.b WHERE id = {round};\nINSERT INTO $.a (id, name) VALUES ({}, N'x')",
            5_000 + round,
            100 + round,
            9_000 + round
        ))
        .await;
        capture.run(&*source, &names).await.expect("a run");
    }
    let ops = capture.ops(&names[0]);
    for op in ["R", "I", "U", "D"] {
        assert!(ops.iter().any(|found| found == op), "no {op}");
    }
}

#[tokio::test]
async fn changes_of_a_transaction_come_when_it_is_committed_and_in_its_order_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [shop.stream("b")];
    let mut capture = Capture::default();
    capture.run(&*source, &names).await.expect("a run");
    let rows = capture.ops(&names[0]).len();
    let session = shop.session().await;
    session.sql("BEGIN TRANSACTION").await;
    for sql in ["UPDATE $.b SET note = N'first' WHERE id = 1", "UPDATE $.b SET note = N'second' WHERE id = 1"] {
        session.sql(&sql.replace('$', &shop.schema)).await;
    }
    shop.sql("INSERT INTO $.b (id, note) VALUES (200, N'other')").await;
    capture.run(&*source, &names).await.expect("a run");
    session.sql("COMMIT").await;
    capture.run(&*source, &names).await.expect("a run");
    let notes = capture.column(&names[0], "note");
    let notes: Vec<&str> = notes[rows..].iter().map(|note| note.as_deref().expect("a note")).collect();
    assert_eq!(notes, ["other", "first", "second"]);
}

#[tokio::test]
async fn many_transactions_are_read_in_parts_that_can_be_resumed_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [shop.stream("b")];
    let mut capture = Capture::default();
    capture.run(&*source, &names).await.expect("a run");
    let updates: Vec<String> =
        (0..2_500).map(|i| format!("UPDATE $.b SET note = N'v{i}' WHERE id = {}", i % 100 + 1)).collect();
    shop.sql(&updates.join(";\n")).await;
    let asked = shop.script().state().statements().len();
    capture.run(&*source, &names).await.expect("a run");
    let parts = shop.script().state().statements()[asked..]
        .iter()
        .filter(|sql| sql.contains("fn_cdc_get_all_changes_"))
        .count();
    assert_eq!(parts, 3, "a thousand transactions at a time");
    assert_eq!(
        capture.replay(&names[0], "id", &["id", "note"]),
        loaded(&*source, &names[0], "id", &["id", "note"]).await
    );
}

#[tokio::test]
async fn a_table_that_joins_later_gets_only_what_is_new_to_it_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let (a, b) = (shop.stream("a"), shop.stream("b"));
    let mut capture = Capture::default();
    capture.run(&*source, std::slice::from_ref(&a)).await.expect("a run");
    shop.sql("UPDATE $.b SET note = N'before' WHERE id = 1;\nUPDATE $.a SET name = N'before' WHERE id = 1").await;
    capture.run(&*source, &[a.clone(), b.clone()]).await.expect("a run");
    assert!(capture.ops(&b).iter().all(|op| op == "R"), "the change is in the load already");
    assert_eq!(capture.replay(&a, "id", &["id", "name"]), loaded(&*source, &a, "id", &["id", "name"]).await);
}

#[tokio::test]
async fn a_large_value_that_an_update_leaves_alone_is_absent_and_not_null_on_the_script() {
    let sql = "CREATE TABLE $.t (id int PRIMARY KEY, n int, big nvarchar(max), late int)";
    let shop =
        Shop::scripted(&format!("{sql};\n{};\nINSERT INTO $.t (id, n, big) VALUES (1, 1, N'large')", captured(&["t"])))
            .await;
    let source = shop.open().await;
    let names = [shop.stream("t")];
    let mut capture = Capture::default();
    capture.run(&*source, &names).await.expect("a run");
    shop.sql("UPDATE $.t SET n = 2 WHERE id = 1;\nUPDATE $.t SET big = NULL WHERE id = 1").await;
    capture.run(&*source, &names).await.expect("a run");
    let came = |column| capture.column(&names[0], column).split_off(1);
    assert_eq!(came("_ingest_absent"), [Some("04".to_owned()), None], "bit 2 is the third column");
    assert_eq!(came("big"), [None, None]);
    assert_eq!(came("n"), [Some("2".to_owned()), Some("2".to_owned())]);
}

#[tokio::test]
async fn changes_that_were_cleaned_up_or_a_database_that_was_restored_stop_the_run_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [shop.stream("b")];
    let mut capture = Capture::default();
    capture.run(&*source, &names).await.expect("a run");
    shop.sql("UPDATE $.b SET note = N'lost' WHERE id = 1").await;
    shop.script().state().clean_up();
    let error = fails(capture.run(&*source, &names).await);
    assert_eq!(error.kind(), ErrorKind::CheckpointInvalid, "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--resync")), "{error:?}");
    shop.sql("EXEC sys.sp_cdc_enable_db").await;
    let error = fails(capture.run(&*source, &names).await);
    assert_eq!(error.kind(), ErrorKind::CheckpointInvalid, "{error:?}");
    assert!(error.to_string().contains("restored"), "{error:?}");
}

#[tokio::test]
async fn check_lists_what_capture_lacks_with_the_statements_on_the_script() {
    let shop = Shop::scripted(TABLES).await;
    let source = shop.open().await;
    let names = [StreamName::from(shop.stream("a").as_str()), StreamName::from(shop.stream("b").as_str())];
    shop.script().state().agent = (false, 60);
    let all = source.check_changes(&names).await.expect("a check");
    let remedies: Vec<&str> = all.iter().map(|problem| problem.remedy.as_str()).collect();
    for remedy in [
        "EXEC sys.sp_cdc_enable_db",
        "start the service SQL Server Agent",
        "EXEC sys.sp_cdc_enable_table @source_schema = N'shop', @source_name = N'a', @role_name = NULL",
        "EXEC sys.sp_cdc_enable_table @source_schema = N'shop', @source_name = N'b', @role_name = NULL",
    ] {
        assert!(remedies.contains(&remedy), "{remedy} is missing in {remedies:?}");
    }
    let error = fails(Capture::default().run(&*source, &[shop.stream("a")]).await);
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error:?}");
    // The statements of the check are those that repair it.
    for remedy in remedies.iter().filter(|remedy| remedy.starts_with("EXEC")) {
        shop.sql(remedy).await;
    }
    {
        let mut state = shop.script().state();
        state.agent.0 = true;
        state.denied.insert(shop.stream("b"));
    }
    let left = source.check_changes(&names).await.expect("a check");
    let severities: Vec<Severity> = left.iter().map(|problem| problem.severity).collect();
    assert_eq!(severities, [Severity::Warning, Severity::Error], "{left:?}");
    assert!(left[0].remedy.contains("@retention"), "{left:?}");
    assert!(left[1].remedy.contains("GRANT SELECT ON SCHEMA::cdc TO [reader]"), "{left:?}");
    shop.script().state().denied.clear();
    shop.script().state().agent.1 = 4_320;
    assert_eq!(source.check_changes(&names).await.expect("a check"), []);
}
