//! Sources and tables are compared: what is equal is said to be, and what is not is found.

use ingest_testkit::mysql::{Flavour, Mysql, PASSWORD};
use ingest_testkit::postgres::Postgres;
use serde_json::Value;

use crate::cli::Project;

fn verified(project: &Project, arguments: &[&str], code: i32) -> Value {
    let output = project.run(&[&["verify", "--json", "--source"], arguments].concat());
    assert_eq!(output.code, Some(code), "{output:#?}");
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:#?}"))
}

fn outcome<'r>(receipt: &'r Value, stream: &str) -> &'r Value {
    let streams = receipt["streams"].as_array().expect("streams");
    streams.iter().find(|s| s["stream"] == stream).unwrap_or_else(|| panic!("{stream}: {receipt:#}"))
}

const STREAMS: &str = "mask_key: k-k-k-k-k-k-k-k-k-k
sources:
  files:
    path: ./data
    files: {t: {path: \"t*.csv\", format: csv}, u: {path: \"u*.csv\", format: csv}, v: {path: \"v*.csv\", format: csv},
            w: {path: \"w*.csv\", format: csv}}
    streams:
      t: {mode: full, mask: {name: hash}, checks: [{column: n, range: {max: 100}, on_fail: quarantine}]}
      u: {write: merge, key: [id], soft_delete: true}
      v: {write: scd2, key: [id]}
      w: {write: append, key: [id]}
";

fn loaded() -> Project {
    let project = Project::new(STREAMS);
    let data = project.folder.path().join("data");
    std::fs::create_dir_all(&data).expect("made");
    for run in 0..2 {
        for stream in ["t", "u", "v", "w"] {
            // A key comes once: what a file says of it is what the table has.
            let rows: String = (0..50)
                .map(|i| (run * 1000 + i, i))
                .map(|(id, i)| format!("{id},name {i},{},2024-01-{:02}\n", i * 3, i % 28 + 1))
                .collect();
            std::fs::write(data.join(format!("{stream}{run}.csv")), format!("id,name,n,day\n{rows}")).expect("written");
        }
        project.good(&["run", "--source", "files"]);
    }
    project
}

#[test]
fn tables_of_every_write_mode_equal_their_source_and_a_change_is_found() {
    let project = loaded();
    let receipt = verified(&project, &["files"], 0);
    assert_eq!(receipt["equal"], true);
    for (stream, rows, held) in [("t", 68, 32), ("u", 100, 0), ("v", 100, 0), ("w", 100, 0)] {
        let found = outcome(&receipt, stream);
        assert_eq!(found["outcome"], "equal", "{found:#}");
        assert_eq!((&found["source_rows"], &found["table_rows"]), (&rows.into(), &rows.into()), "{found:#}");
        assert_eq!(found["quarantined_rows"], held);
        assert!(found["columns"].as_array().is_some_and(|c| c.iter().any(|c| c["column"] == "name")), "{found:#}");
    }
    let kept = project.folder.path().join("lake/_ingest/verified");
    assert_eq!(std::fs::read_dir(kept).expect("receipts").count(), 1);

    // Another name for one row, a row more, a row less: not loaded.
    let path = |name: &str| project.folder.path().join("data").join(name);
    let read = |name: &str| std::fs::read_to_string(path(name)).expect("read");
    std::fs::write(path("t0.csv"), read("t0.csv").replace("7,name 7,", "7,name x,")).expect("written");
    std::fs::write(path("u0.csv"), read("u0.csv") + "5000,new,1,2024-01-01\n").expect("written");
    let shorter: String = read("v1.csv").lines().take(50).map(|line| format!("{line}\n")).collect();
    std::fs::write(path("v1.csv"), shorter).expect("written");
    let receipt = verified(&project, &["files"], 5);
    let t = outcome(&receipt, "t");
    assert_eq!((&t["outcome"], &t["source_rows"], &t["table_rows"]), (&"unequal".into(), &68.into(), &68.into()));
    let unequal: Vec<&str> = t["columns"]
        .as_array()
        .expect("columns")
        .iter()
        .filter(|c| c["equal"] == false)
        .filter_map(|c| c["column"].as_str())
        .collect();
    assert_eq!(unequal, ["name"]);
    assert_eq!(outcome(&receipt, "u")["keys"]["equal"], false);
    assert_eq!(outcome(&receipt, "v")["source_rows"], 99);
    assert_eq!(outcome(&receipt, "w")["outcome"], "equal");
    let shown = project.run(&["verify", "--source", "files"]);
    assert!(shown.stdout.contains("unequal: name") && shown.stdout.contains("_ingest/verified/"), "{shown:?}");
}

/// The columns that the source added up by itself.
fn summed(stream: &Value) -> Vec<&str> {
    let columns = stream["columns"].as_array().expect("columns").iter();
    columns.filter(|column| column["how"] == "summed").filter_map(|column| column["column"].as_str()).collect()
}

#[test]
fn a_stream_without_a_table_cannot_be_verified() {
    let project = Project::shop();
    let output = project.run(&["verify", "--source", "files"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("has no table yet"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_counts_by_itself_and_is_compared_by_values() {
    let Some(server) = Postgres::shared() else { return };
    let database = server.database().await;
    let sql = "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(10,2), at timestamptz, tags text[]);
        INSERT INTO item SELECT i, 'item ' || i, i * 1.25, '2024-01-01'::timestamptz + i * interval '1 hour',
          ARRAY['a', NULL, i::text] FROM generate_series(1, 3000) i";
    database.client.batch_execute(sql).await.expect("valid SQL");
    let project = Project::new(&format!(
        "sources:\n  db:\n    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    \
         user: postgres\n    password: ${{DB_PASSWORD}}\n    streams:\n      \
         public.item: {{mode: incremental, cursor: at, write: merge, where: id > 10}}\n",
        server.port(),
        database.name
    ))
    .set("DB_PASSWORD", server.password());
    project.good(&["run", "--source", "db"]);
    let counted = verified(&project, &["db", "--counts"], 0);
    let item = outcome(&counted, "public.item");
    assert_eq!((&item["how"], &item["source_rows"]), (&"counted".into(), &2990.into()), "{item:#}");
    let read = verified(&project, &["db"], 0);
    let item = outcome(&read, "public.item");
    assert_eq!((&item["how"], &item["table_rows"]), (&"summed and read".into(), &2990.into()), "{item:#}");
    assert_eq!(item["columns"].as_array().map(Vec::len), Some(6), "{item:#}");
    assert_eq!(summed(item), ["id", "name", "price", "at"], "{item:#}");
    assert!(item["notes"][0].as_str().is_some_and(|note| note.ends_with("add them up as the table does: tags")));
    // A change that no cursor shows: the next run would not see it.
    let sql = "UPDATE item SET price = 0 WHERE id = 77; DELETE FROM item WHERE id = 78";
    database.client.batch_execute(sql).await.expect("valid SQL");
    let counted = verified(&project, &["db", "--counts"], 5);
    assert_eq!(outcome(&counted, "public.item")["source_rows"], 2989);
    let read = verified(&project, &["db"], 5);
    let item = outcome(&read, "public.item");
    assert_eq!(item["how"], "read", "what differs is read, so that no spelling is taken for a difference: {item:#}");
    let unequal = item["columns"].as_array().expect("columns").iter().filter(|c| c["equal"] == false).count();
    assert!(unequal >= 1 && item["keys"]["equal"] == false, "{item:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_and_mariadb_count_by_themselves() {
    for flavour in Flavour::ALL {
        let Some(server) = Mysql::shared(flavour) else { continue };
        let database = server.database().await;
        database.sql("CREATE TABLE item (id int PRIMARY KEY, name varchar(20))").await;
        let rows: Vec<String> = (1..=200).map(|i| format!("({i}, 'item {i}')")).collect();
        database.sql(&format!("INSERT INTO item VALUES {}", rows.join(","))).await;
        let stream = format!("{}.item", database.name);
        let project = Project::new(&format!(
            "sources:\n  db:\n    connector: mysql\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    user: root\n    \
             password: ${{DB_PASSWORD}}\n    streams:\n      {stream}: {{mode: full, where: id > 50 -- not all}}\n",
            server.port(),
            database.name
        ))
        .set("DB_PASSWORD", PASSWORD);
        project.good(&["run", "--source", "db"]);
        let counted = verified(&project, &["db", "--counts"], 0);
        let item = outcome(&counted, &stream);
        assert_eq!((&item["how"], &item["source_rows"]), (&"counted".into(), &150.into()), "{flavour:?}: {item:#}");
        database.sql("DELETE FROM item WHERE id = 77").await;
        let counted = verified(&project, &["db", "--counts"], 5);
        assert_eq!(outcome(&counted, &stream)["source_rows"], 149, "{flavour:?}");
    }
}

/// Values at the ends of their types, and nulls.
const POSTGRES_TYPES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE kinds (a int, b text, flag boolean, small smallint, big bigint, o oid, dec numeric(30,10), free numeric,
  f4 real, f8 double precision, c char(7), v varchar(9), e mood, j json, jb jsonb, u uuid, by bytea, d date,
  ts timestamp, tz timestamptz, PRIMARY KEY (a, b));
INSERT INTO kinds (a, b) VALUES (0, ''), (1, 'all null');
INSERT INTO kinds VALUES
  (-2147483648, '1:x', true, -32768, -9223372036854775808, 4294967295, -12345678901234567890.0123456789, 1.500, 0.1, 1e300,
   'ab', 'zoë €', 'ok', '{\"a\": 1,  \"b\":[]}', '{\"b\":[1.0],\"a\":null}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\x00ff',
   '0001-01-01', '2024-02-29 23:59:59.999999', '1969-12-31 23:59:59.000001+05'),
  (2147483647, ':', false, 32767, 9223372036854775807, 0, 0, 12345678901234567890123456789012345678901.5, '-Infinity', 'NaN',
   '', '', 'sad', 'null', '[]', '00000000-0000-0000-0000-000000000000', '', '9999-12-31', '1583-01-01', '9999-12-31 23:59:59Z');
INSERT INTO kinds (a, b, flag, dec, c, f8, d, tz)
  SELECT i, 'row ' || i, i % 3 = 0, i / 7.0, i::text, i / 3.0, '2000-01-01'::date + i, '2000-01-01'::timestamptz + i * interval '1.1 hours'
  FROM generate_series(2, 500) i;
CREATE TABLE endless (id int PRIMARY KEY, d date);
INSERT INTO endless VALUES (1, 'infinity'), (2, NULL), (3, '0044-03-15 BC'), (4, '2024-01-01');";

#[tokio::test(flavor = "multi_thread")]
async fn postgres_adds_up_values_of_every_plain_type_as_the_table_does() {
    let Some(server) = Postgres::shared() else { return };
    let database = server.database().await;
    database.client.batch_execute(POSTGRES_TYPES).await.expect("valid SQL");
    let project = Project::new(&format!(
        "mask_key: k-k-k-k-k-k-k-k-k-k\nsources:\n  db:\n    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    \
         database: {}\n    user: postgres\n    password: ${{DB_PASSWORD}}\n    streams:\n      \
         public.kinds: {{mode: full, mask: {{v: hash}}}}\n      public.endless: {{mode: full, where: id > 0 -- all}}\n",
        server.port(),
        database.name
    ))
    .set("DB_PASSWORD", server.password());
    project.good(&["run", "--source", "db"]);
    let receipt = verified(&project, &["db"], 0);
    let kinds = outcome(&receipt, "public.kinds");
    assert_eq!((&kinds["how"], &kinds["source_rows"]), (&"summed and read".into(), &503.into()), "{kinds:#}");
    // A masked column is made by us alone.
    assert_eq!(summed(kinds).len(), 19, "{kinds:#}");
    assert!(kinds["notes"][0].as_str().is_some_and(|note| note.ends_with(": v")), "{kinds:#}");
    // Times without a place in the table look like null there: they are read, and known to be the same.
    let endless = outcome(&receipt, "public.endless");
    assert_eq!((&endless["how"], &endless["outcome"]), (&"read".into(), &"equal".into()), "{endless:#}");
    database.client.batch_execute("UPDATE kinds SET f8 = 0.1 + 0.2 WHERE a = 77").await.expect("valid SQL");
    let receipt = verified(&project, &["db", "--select", "public.kinds"], 5);
    let kinds = outcome(&receipt, "public.kinds");
    let unequal: Vec<&Value> =
        kinds["columns"].as_array().expect("columns").iter().filter(|c| c["equal"] == false).collect();
    assert_eq!((unequal.len(), &unequal[0]["column"]), (1, &"f8".into()), "{kinds:#}");
}

const MYSQL_TYPES: &str = "CREATE TABLE kinds (a int, b varchar(20) CHARACTER SET latin1, i int(8) unsigned zerofill,
  big bigint unsigned, de decimal(20,5), f double, c char(5), t text, e enum('x','yé'), bl varbinary(9), bi bit(1), d date,
  dt datetime(6), ts timestamp(3) NULL, y year, PRIMARY KEY (a, b))";

const MYSQL_ROWS: [&str; 3] = [
    "INSERT INTO kinds (a, b) VALUES (0, ''), (1, 'null')",
    "INSERT INTO kinds VALUES (-7, 'é:1', 42, 18446744073709551615, -0.50000, 0.1, 'ab ', 'zoë', 'yé', X'00ff', b'1', \
     '2024-02-29', '9999-12-31 23:59:59.999999', '2024-01-01 00:00:00.001', 1999)",
    "INSERT INTO kinds VALUES (7, ':', 4294967295, 0, 123456789012345.12345, -1e300, '', '', 'x', '', b'0', \
     '1000-01-01', '2024-01-31 00:00:00', '1970-01-02 00:00:00', 2155)",
];

#[tokio::test(flavor = "multi_thread")]
async fn mysql_and_mariadb_add_up_values_of_every_plain_type_as_the_table_does() {
    for flavour in Flavour::ALL {
        let Some(server) = Mysql::shared(flavour) else { continue };
        let database = server.database().await;
        database.sql(MYSQL_TYPES).await;
        for rows in MYSQL_ROWS {
            database.sql(rows).await;
        }
        let stream = format!("{}.kinds", database.name);
        let project = Project::new(&format!(
            "sources:\n  db:\n    connector: mysql\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    user: root\n    \
             password: ${{DB_PASSWORD}}\n    streams:\n      {stream}: {{mode: full, where: a > -9 -- all}}\n",
            server.port(),
            database.name
        ))
        .set("DB_PASSWORD", PASSWORD);
        project.good(&["run", "--source", "db"]);
        let receipt = verified(&project, &["db"], 0);
        let kinds = outcome(&receipt, &stream);
        assert_eq!(
            (&kinds["how"], &kinds["table_rows"]),
            (&"summed and read".into(), &4.into()),
            "{flavour:?}: {kinds:#}"
        );
        let expected = ["a", "b", "i", "big", "de", "c", "t", "e", "bl", "bi", "d", "dt", "ts", "y"];
        assert_eq!(summed(kinds), expected, "{flavour:?}: {kinds:#}");
        database.sql("UPDATE kinds SET de = de + 0.00001 WHERE a = 7").await;
        let receipt = verified(&project, &["db"], 5);
        let kinds = outcome(&receipt, &stream);
        let unequal = kinds["columns"].as_array().expect("columns").iter().filter(|c| c["equal"] == false);
        assert_eq!(unequal.filter_map(|c| c["column"].as_str()).collect::<Vec<_>>(), ["de"], "{flavour:?}: {kinds:#}");
    }
}
