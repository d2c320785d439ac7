//! Change Tracking: the rows that changed, as they are now, bring the lake to what the source holds. All on the script.

use ingest_core::{ErrorKind, Severity, StreamName};
use ingest_testkit::capture::{Capture, loaded};

use crate::support::{Shop, fails, numbered};

const ON: &str = "ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 2 DAYS, AUTO_CLEANUP = ON)";

fn tracked(tables: &[&str]) -> String {
    let table = |table: &&str| format!("ALTER TABLE $.{table} ENABLE CHANGE_TRACKING");
    let statements: Vec<String> = std::iter::once(ON.to_owned()).chain(tables.iter().map(table)).collect();
    statements.join(";\n")
}

const TABLES: &str =
    "CREATE TABLE $.a (id int, part nvarchar(9), name nvarchar(50), price money, PRIMARY KEY (id, part));
CREATE TABLE $.b (id int PRIMARY KEY, note nvarchar(max))";

async fn shop() -> Shop {
    let a = numbered("$.a", "id, part, name, price", 300, |i| format!("{i}, N'p', N'n{i}', {i}.5"));
    let b = numbered("$.b", "id, note", 100, |i| format!("{i}, N'b{i}'"));
    Shop::scripted(&format!("{TABLES};\n{};\n{a};\n{b}", tracked(&["a", "b"]))).await
}

#[tokio::test]
async fn a_load_and_the_rows_that_changed_are_the_source_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [shop.stream("a"), shop.stream("b")];
    let columns = ["id", "part", "name", "price"];
    let mut capture = Capture::default();
    let during = async || {
        shop.sql("UPDATE $.a SET name = N'während' WHERE id = 7;\nDELETE FROM $.a WHERE id = 8;\nINSERT INTO $.b (id, note) VALUES (101, N'new')").await;
    };
    capture.run_while(&*source, &names, during).await.expect("a run");
    for round in 0..3 {
        assert_eq!(capture.replay(&names[0], "id", &columns), loaded(&*source, &names[0], "id", &columns).await);
        assert_eq!(capture.replay(&names[1], "id", &["note"]), loaded(&*source, &names[1], "id", &["note"]).await);
        shop.sql(&format!(
            "UPDATE $.a SET id = {} WHERE id = {};\nUPDATE $.a SET price = NULL WHERE id < 20;\nDELETE FROM $.b WHERE id = {};\nINSERT INTO $.a (id, part, name) VALUES ({}, N'q', N'x')",
            5_000 + round,
            100 + round,
            50 + round,
            9_000 + round
        ))
        .await;
        capture.run(&*source, &names).await.expect("a run");
    }
    let ops = capture.ops(&names[0]);
    for op in ["R", "I", "U", "D"] {
        assert!(ops.iter().any(|found| found == op), "no {op}");
    }
    let asked = ops.len();
    capture.run(&*source, &names).await.expect("a run");
    assert_eq!(capture.ops(&names[0]).len(), asked, "nothing comes twice");
}

#[tokio::test]
async fn a_row_comes_once_for_all_its_changes_and_a_deleted_one_with_its_key_alone_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [shop.stream("b")];
    let mut capture = Capture::default();
    capture.run(&*source, &names).await.expect("a run");
    shop.sql("UPDATE $.b SET note = N'first' WHERE id = 1;\nUPDATE $.b SET note = N'second' WHERE id = 1;\nDELETE FROM $.b WHERE id = 2;\nINSERT INTO $.b (id, note) VALUES (200, NULL)").await;
    capture.run(&*source, &names).await.expect("a run");
    let came = |column| capture.column(&names[0], column).split_off(100);
    let texts = |texts: [Option<&str>; 3]| texts.map(|text| text.map(str::to_owned));
    assert_eq!(came("id"), texts([Some("1"), Some("2"), Some("200")]));
    assert_eq!(came("_ingest_op"), texts([Some("U"), Some("D"), Some("I")]));
    assert_eq!(came("note"), texts([Some("second"), None, None]));
    assert_eq!(came("_ingest_absent"), texts([None, Some("02"), None]), "what a deleted row held is not known");
}

#[tokio::test]
async fn a_transaction_that_is_open_is_read_when_it_is_committed_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [shop.stream("b")];
    let mut capture = Capture::default();
    capture.run(&*source, &names).await.expect("a run");
    let session = shop.session().await;
    session.sql("BEGIN TRANSACTION").await;
    session.sql(&"UPDATE $.b SET note = N'late' WHERE id = 1".replace('$', &shop.schema)).await;
    shop.sql("INSERT INTO $.b (id, note) VALUES (200, N'other')").await;
    capture.run(&*source, &names).await.expect("a run");
    assert_eq!(capture.ops(&names[0])[100..], ["I"]);
    session.sql("COMMIT").await;
    capture.run(&*source, &names).await.expect("a run");
    assert_eq!(capture.replay(&names[0], "id", &["note"]), loaded(&*source, &names[0], "id", &["note"]).await);
}

#[tokio::test]
async fn a_tracked_table_beside_a_captured_one_has_a_feed_of_its_own_on_the_script() {
    let shop = shop().await;
    shop.sql("EXEC sys.sp_cdc_enable_db;\nEXEC sys.sp_cdc_enable_table @source_schema = N'$', @source_name = N'b', @role_name = NULL").await;
    let source = shop.open().await;
    let names = [shop.stream("a"), shop.stream("b")];
    let mut capture = Capture::default();
    capture.run(&*source, &names).await.expect("a run");
    let feed = |name: &String| capture.positions[name].keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(feed(&names[0]), ["tracking"]);
    assert_eq!(feed(&names[1]), ["changes"], "what captures says more");
    shop.sql("UPDATE $.a SET name = N'x' WHERE id = 1;\nUPDATE $.b SET note = N'x' WHERE id = 1;\nUPDATE $.b SET note = N'y' WHERE id = 1").await;
    capture.run(&*source, &names).await.expect("a run");
    assert_eq!(capture.ops(&names[0])[300..], ["U"]);
    assert_eq!(capture.ops(&names[1])[100..], ["U", "U"]);
    // A table that is captured from now on goes on as it has begun.
    shop.sql("EXEC sys.sp_cdc_enable_table @source_schema = N'$', @source_name = N'a', @role_name = NULL;\nDELETE FROM $.a WHERE id = 2").await;
    capture.run(&*source, &names).await.expect("a run");
    assert_eq!(capture.ops(&names[0])[300..], ["U", "D"]);
}

#[tokio::test]
async fn changes_that_are_not_known_any_more_stop_the_run_with_the_remedy_on_the_script() {
    for (what, sql) in [
        ("gone", None),
        ("gone", Some("TRUNCATE TABLE $.b")),
        ("not tracked any more", Some("ALTER TABLE $.b DISABLE CHANGE_TRACKING")),
        (
            "gone",
            Some(
                "ALTER TABLE $.b DISABLE CHANGE_TRACKING;\nUPDATE $.a SET name = N'x' WHERE id = 1;\nALTER TABLE $.b ENABLE CHANGE_TRACKING",
            ),
        ),
        (
            "restored",
            Some(
                "ALTER DATABASE CURRENT SET CHANGE_TRACKING = OFF;\nALTER DATABASE CURRENT SET CHANGE_TRACKING = ON;\nALTER TABLE $.b ENABLE CHANGE_TRACKING",
            ),
        ),
    ] {
        let shop = shop().await;
        let source = shop.open().await;
        let names = [shop.stream("b")];
        let mut capture = Capture::default();
        capture.run(&*source, &names).await.expect("a run");
        shop.sql("UPDATE $.b SET note = N'lost' WHERE id = 1").await;
        match sql {
            None => shop.script().state().clean_up(),
            Some(sql) => shop.sql(sql).await,
        }
        let error = fails(capture.run(&*source, &names).await);
        assert_eq!(error.kind(), ErrorKind::CheckpointInvalid, "{sql:?}: {error:?}");
        assert!(error.to_string().contains(what), "{sql:?}: {error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--resync")), "{sql:?}: {error:?}");
        assert_eq!(capture.ops(&names[0]).len(), 100, "{sql:?}: nothing of a read that is not whole");
    }
}

#[tokio::test]
async fn what_the_cleanup_takes_while_a_table_is_read_is_found_out_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [shop.stream("b")];
    let mut capture = Capture::default();
    capture.run(&*source, &names).await.expect("a run");
    shop.sql("UPDATE $.b SET note = N'lost' WHERE id = 1").await;
    // The answer is short, and only a question afterwards shows it.
    shop.script().state().clean_up_at("CHANGETABLE");
    let error = fails(capture.run(&*source, &names).await);
    assert_eq!(error.kind(), ErrorKind::CheckpointInvalid, "{error:?}");
    assert_eq!(capture.ops(&names[0]).len(), 100);
}

#[tokio::test]
async fn check_asks_for_the_grant_and_for_a_longer_memory_on_the_script() {
    let shop = shop().await;
    let source = shop.open().await;
    let names = [StreamName::from(shop.stream("a").as_str()), StreamName::from(shop.stream("b").as_str())];
    assert_eq!(source.check_changes(&names).await.expect("a check"), []);
    shop.sql("ALTER DATABASE CURRENT SET CHANGE_TRACKING (CHANGE_RETENTION = 90 MINUTES)").await;
    shop.script().state().denied.insert(shop.stream("b"));
    let all = source.check_changes(&names).await.expect("a check");
    let severities: Vec<Severity> = all.iter().map(|problem| problem.severity).collect();
    assert_eq!(severities, [Severity::Warning, Severity::Error], "{all:?}");
    assert!(all[0].remedy.contains("CHANGE_RETENTION = 7 DAYS"), "{all:?}");
    assert_eq!(all[1].remedy, "GRANT VIEW CHANGE TRACKING ON [shop].[b] TO [reader]");
    shop.script().state().denied.clear();
    shop.sql(&all[0].remedy).await;
    assert_eq!(source.check_changes(&names).await.expect("a check"), []);
}
