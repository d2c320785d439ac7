//! Full loads: slices, points in time, resuming.

use ingest_connector_postgres::Postgres as Connector;
use ingest_core::{Builtin, Context, ErrorKind, Event, Factory, Intent, Mode, Shape, StreamName};
use ingest_testkit::out::Collected;
use ingest_testkit::postgres::{Options, Postgres};

use crate::support::{How, Shop, assert_range, fails, ids, open, plan, read, run, streams, texts};

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, name text);
    INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i; ANALYZE t";
const CHANGES: &str = "DELETE FROM t WHERE id % 3 = 0; UPDATE t SET name = 'new';
    INSERT INTO t SELECT generate_series(20001, 30000), 'new'";

#[tokio::test]
async fn a_table_is_read_whole() {
    let Some(shop) = Shop::new(TABLE).await else { return };
    let source = shop.open().await;
    let batches = run(&*source, "public.t", &mut How::full()).await.expect("a load");
    assert_range(&batches, "id", 1, 20_000);
    assert!(batches.len() > 1, "cut by the wanted size");
}

#[tokio::test]
async fn ctid_slices_share_one_point_in_time() {
    let Some(shop) = Shop::new(TABLE).await else { return };
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    let how = How { min_slices: 4, ..How::full() };
    let plan = plan(&*source, &found, &how).await.expect("a plan");
    assert_eq!(plan.slices.len(), 4);
    assert!(plan.slices.iter().all(|slice| slice.shape == Shape::Snapshot));
    shop.sql(CHANGES).await;
    let mut batches = Vec::new();
    for slice in &plan.slices {
        let out = read(&*source, slice, None, &how).await.expect("a slice");
        batches.extend(out.batches(&found[0].name).cloned());
    }
    assert_range(&batches, "id", 1, 20_000);
    assert!(texts(&batches, "name").iter().all(|name| name.as_deref() != Some("new")));
    // Once the run is over nothing keeps the server from cleaning up.
    drop(source);
    nobody_is_idle_in_a_transaction(&shop).await;
}

async fn nobody_is_idle_in_a_transaction(shop: &Shop) {
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    while shop.texts(idle).await[0][0].as_deref() != Some("0") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn tables_of_one_run_share_one_point_in_time() {
    let Some(shop) = Shop::new(
        "CREATE TABLE a AS SELECT 1 AS id; CREATE TABLE b AS SELECT 1 AS id; CREATE VIEW c AS SELECT * FROM b",
    )
    .await
    else {
        return;
    };
    let source = shop.open().await;
    let found = streams(&*source, &[]).await;
    assert!(found.iter().all(|stream| stream.group == found[0].group));
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    shop.sql("INSERT INTO a VALUES (2); INSERT INTO b VALUES (2)").await;
    assert_eq!(plan.slices.len(), 3);
    for slice in &plan.slices {
        assert_eq!(read(&*source, slice, None, &How::full()).await.expect("a slice").rows(), 1);
    }
}

#[tokio::test]
async fn a_snapshot_that_is_gone_asks_for_a_new_plan() {
    let Some(shop) = Shop::new(TABLE).await else { return };
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    let first = plan(&*source, &found, &How::full()).await.expect("a plan");
    let other = shop.open().await;
    // Another process may share it as long as it lives.
    assert_eq!(read(&*other, &first.slices[0], None, &How::full()).await.expect("a slice").rows(), 20_000);
    drop(source);
    let error = loop {
        // The server takes a moment to see that the connection is closed.
        match other.extract(&first.slices[0], 1, None, &mut Collected::new()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::SliceExpired, "{error:?}");
}

#[tokio::test]
async fn key_slices_resume_from_every_mark() {
    let Some(shop) = Shop::new(TABLE).await else { return };
    let shop = shop.with("read", "key");
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    let how = How { min_slices: 3, batch_bytes: 64 << 10, ..How::full() };
    let plan = plan(&*source, &found, &how).await.expect("a plan");
    assert_eq!(plan.slices.len(), 3);
    let mut batches = Vec::new();
    for slice in &plan.slices {
        assert_eq!(slice.shape, Shape::Window);
        let out = read(&*source, slice, None, &how).await.expect("a slice");
        let whole: Vec<_> = out.batches(&found[0].name).cloned().collect();
        let expected = ids(&whole, "id");
        assert!(out.marks().count() > 3);
        for (at, event) in out.events.iter().enumerate() {
            let Event::Mark(mark) = event else { continue };
            let other = shop.open().await;
            let rest = read(&*other, slice, Some(mark), &how).await.expect("the rest");
            let before =
                out.events[..at].iter().filter_map(|e| if let Event::Rows(_, b) = e { Some(b.clone()) } else { None });
            let all: Vec<_> = before.chain(rest.batches(&found[0].name).cloned()).collect();
            assert_eq!(ids(&all, "id").len(), expected.len());
            assert_eq!(ids(&all, "id"), expected);
        }
        batches.extend(whole);
    }
    assert_range(&batches, "id", 1, 20_000);
}

#[tokio::test]
async fn keys_of_every_type_cut_and_resume() {
    let Some(shop) = Shop::new("SELECT 1").await else { return };
    let shop = shop.with("read", "key");
    for (sql_type, value) in [
        ("smallint", "i - 1000"),
        ("numeric(20,2)", "i / 3.0"),
        ("uuid", "md5(i::text)::uuid"),
        ("text", "'k''\\' || chr(65 + i % 26) || i"),
    ] {
        shop.sql(&format!(
            "DROP TABLE IF EXISTS k; CREATE TABLE k (k {sql_type} PRIMARY KEY, i int);
            INSERT INTO k SELECT {value}, i FROM generate_series(1, 3000) i; ANALYZE k"
        ))
        .await;
        let source = shop.open().await;
        let found = streams(&*source, &["public.k"]).await;
        let how = How { min_slices: 2, batch_bytes: 4 << 10, columns: Some(vec!["i".into()]), ..How::full() };
        let plan = plan(&*source, &found, &how).await.expect("a plan");
        let mut batches = Vec::new();
        for slice in &plan.slices {
            let out = read(&*source, slice, None, &how).await.expect("a slice");
            let mark = out.marks().next().expect("a mark").clone();
            let rest = read(&*source, slice, Some(&mark), &how).await.expect("the rest");
            let first =
                out.events.iter().find_map(|e| if let Event::Rows(_, b) = e { Some(b.num_rows()) } else { None });
            assert_eq!(rest.rows() + first.expect("rows"), out.rows(), "{sql_type}");
            batches.extend(out.batches(&found[0].name).cloned());
        }
        assert_eq!(batches[0].num_columns(), 1, "the key is read for the marks alone");
        assert_range(&batches, "i", 1, 3_000);
    }
}

#[tokio::test]
async fn a_portable_plan_is_read_by_another_process() {
    let Some(shop) = Shop::new(TABLE).await else { return };
    let how = How { intent: Intent::Portable, min_slices: 3, ..How::full() };
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    let plan = plan(&*source, &found, &how).await.expect("a plan");
    drop(source);
    let mut batches = Vec::new();
    for slice in &plan.slices {
        let other = shop.open().await;
        batches.extend(read(&*other, slice, None, &how).await.expect("a slice").batches(&found[0].name).cloned());
    }
    assert!(plan.slices.len() == 3 && plan.slices.iter().all(|slice| slice.shape == Shape::Window));
    assert_range(&batches, "id", 1, 20_000);
}

#[tokio::test]
async fn an_explained_plan_leaves_nothing_at_the_server() {
    let Some(shop) = Shop::new(TABLE).await else { return };
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    let how = How { intent: Intent::Explain, min_slices: 4, ..How::full() };
    assert_eq!(plan(&*source, &found, &how).await.expect("a plan").slices.len(), 4);
    nobody_is_idle_in_a_transaction(&shop).await;
}

#[tokio::test]
async fn partitions_and_children_come_once_with_their_root() {
    let Some(shop) = Shop::new(
        "CREATE TABLE m (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE m_eu PARTITION OF m FOR VALUES IN ('eu') PARTITION BY RANGE (id);
         CREATE TABLE m_eu_1 PARTITION OF m_eu FOR VALUES FROM (0) TO (5000);
         CREATE TABLE m_eu_2 PARTITION OF m_eu FOR VALUES FROM (5000) TO (10000);
         CREATE TABLE m_us (region text NOT NULL, id int NOT NULL); ALTER TABLE m ATTACH PARTITION m_us DEFAULT;
         INSERT INTO m SELECT i, CASE WHEN i < 8000 THEN 'eu' ELSE 'us' END FROM generate_series(1, 9000) i; ANALYZE m;
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
         CREATE TABLE wider (extra text) INHERITS (parent);
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2); INSERT INTO wider VALUES (3, 'x')",
    )
    .await
    else {
        return;
    };
    let source = shop.open().await;
    let found = streams(&*source, &[]).await;
    let names: Vec<&str> = found.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["public.m", "public.parent", "public.wider"], "a child with columns of its own is not lost");
    assert_eq!(found[0].key, ["id", "region"]);
    assert!(found[1].key.is_empty(), "children do not share the key");
    assert_eq!(found[0].estimate.rows, Some(9_000));
    let how = &mut How { slice_bytes: 64 << 10, ..How::full() };
    assert!(plan(&*source, &found[..1], how).await.expect("a plan").slices.len() > 3);
    assert_range(&run(&*source, "public.m", how).await.expect("a load"), "id", 1, 9_000);
    assert_range(&run(&*source, "public.parent", how).await.expect("a load"), "id", 1, 3);
}

#[tokio::test]
async fn views_materialised_views_and_foreign_tables_are_read() {
    let Some(shop) = Shop::new(
        "CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 100) i;
         CREATE VIEW v AS SELECT id, 'n' || id AS name FROM t; CREATE MATERIALIZED VIEW mv AS SELECT id FROM t;
         CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
    )
    .await
    else {
        return;
    };
    shop.sql("CREATE FOREIGN TABLE f (id int) SERVER files OPTIONS (program 'seq 1 100')").await;
    let source = shop.open().await;
    for name in ["public.v", "public.mv", "public.f"] {
        let batches = run(&*source, name, &mut How { min_slices: 4, ..How::full() }).await.expect("a load");
        assert_range(&batches, "id", 1, 100);
    }
}

#[tokio::test]
async fn columns_and_filter_are_pushed_down() {
    let Some(shop) = Shop::new(TABLE).await else { return };
    let source = shop.open().await;
    let how = &mut How {
        columns: Some(vec!["id".into()]),
        filter: Some("id <= 10 OR t.id = 11 -- and no more".into()),
        min_slices: 3,
        ..How::full()
    };
    let batches = run(&*source, "public.t", how).await.expect("a load");
    assert_eq!(batches[0].num_columns(), 1);
    assert_range(&batches, "id", 1, 11);
}

#[tokio::test]
async fn a_filter_cannot_add_a_statement() {
    let Some(shop) = Shop::new(TABLE).await else { return };
    let source = shop.open().await;
    for filter in [
        "true) TO STDOUT; DROP TABLE t; --",
        "true); COMMIT; DROP TABLE t; SELECT (1",
        "1",
        "no_such_column = 1",
        "id = (",
    ] {
        let how = &mut How { filter: Some(filter.into()), ..How::full() };
        let error = fails(run(&*source, "public.t", how).await);
        assert!(matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::SchemaChanged), "{filter}: {error:?}");
    }
    assert_eq!(shop.texts("SELECT count(*) FROM t").await[0][0].as_deref(), Some("20000"));
}

#[tokio::test]
async fn odd_names_are_read_and_harm_nothing() {
    let Some(shop) = Shop::new("CREATE TABLE victim (id int)").await else { return };
    let odd =
        ["a\"; DROP TABLE victim; --", "with.dot", "Ünï 😀", "new\nline", "select", "back\\slash", "it's", "*", "  "];
    for name in odd {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        shop.sql(&format!(
            "CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} int PRIMARY KEY, c timestamptz DEFAULT now());
             INSERT INTO {quoted}.{quoted} SELECT generate_series(1, 500); ANALYZE {quoted}.{quoted}"
        ))
        .await;
    }
    for read_by in ["ctid", "key"] {
        let source = open({
            let mut c = shop.config.clone();
            c["read"] = read_by.into();
            c
        })
        .await
        .expect("a source");
        let all = streams(&*source, &[]).await;
        for name in odd {
            let stream = StreamName::new(format!("{name}.{name}"));
            let found: Vec<_> = all.iter().filter(|s| s.name == stream).cloned().collect();
            assert_eq!(found.len(), 1, "{name}");
            for how in [How { min_slices: 2, ..How::full() }, How { columns: Some(vec![name.into()]), ..How::by(name) }]
            {
                let plan = plan(&*source, &found, &how).await.expect("a plan");
                let mut rows = 0;
                for slice in &plan.slices {
                    rows += read(&*source, slice, None, &how).await.unwrap_or_else(|e| panic!("{name}: {e:?}")).rows();
                }
                assert_eq!(rows, 500, "{name}");
            }
        }
    }
    assert_eq!(shop.texts("SELECT count(*) FROM victim").await.len(), 1);
}

#[tokio::test]
async fn empty_tables_and_tables_without_columns_are_read() {
    let Some(shop) =
        Shop::new("CREATE TABLE empty (id int); CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES").await
    else {
        return;
    };
    let source = shop.open().await;
    assert!(run(&*source, "public.empty", &mut How::full()).await.expect("a load").is_empty());
    let bare = run(&*source, "public.bare", &mut How::full()).await.expect("a load");
    assert_eq!(bare[0].num_rows(), 1);
}

#[tokio::test]
async fn discovery_says_keys_cursors_and_modes() {
    let Some(shop) = Shop::new(
        "CREATE TABLE orders (id bigserial PRIMARY KEY, made date NOT NULL, updated_at timestamptz, note text);
         CREATE TABLE codes (code text NOT NULL, label text, UNIQUE (label), UNIQUE (code));
         CREATE TABLE plain (a int, b text); CREATE VIEW v AS SELECT * FROM orders;
         CREATE TABLE later (id int, PRIMARY KEY (id) DEFERRABLE)",
    )
    .await
    else {
        return;
    };
    let source = shop.open().await;
    let found = streams(&*source, &[]).await;
    let stream = |name: &str| found.iter().find(|s| s.name.as_str() == name).expect("a stream");
    let cursors =
        |name: &str| stream(name).cursors.iter().map(|c| format!("{} {}", c.column, c.safety)).collect::<Vec<_>>();
    assert_eq!(cursors("public.orders"), ["updated_at snapshot", "id snapshot", "made snapshot"]);
    assert_eq!(cursors("public.v")[0], "updated_at unsafe");
    assert_eq!(stream("public.orders").modes, [Mode::Incremental, Mode::Full, Mode::Cdc]);
    assert!(!stream("public.v").modes.contains(&Mode::Cdc), "a view is not in the log");
    assert_eq!(
        stream("public.plain").modes,
        [Mode::Full, Mode::Incremental, Mode::Cdc],
        "a number does not say when a row was changed"
    );
    assert_eq!(stream("public.codes").key, ["code"], "label can be null");
    assert!(stream("public.later").key.is_empty(), "a deferrable key can be double within a transaction");
    assert!(!stream("public.orders").schema.field(0).is_nullable());
    let again = serde_json::to_string(&streams(&*source, &[]).await).expect("JSON");
    assert_eq!(again, serde_json::to_string(&found).expect("JSON"));
}

#[test]
fn the_configuration_describes_itself() {
    let spec = Builtin::<Connector>::new().spec();
    let properties = spec.config.expect("a schema")["properties"].clone();
    let fields = properties.as_object().expect("fields");
    assert!(fields.values().all(|field| field["description"].is_string()), "every field says what it means");
    assert_eq!(fields["password"]["writeOnly"], true);
}

#[tokio::test]
async fn unknown_fields_and_missing_users_are_refused_with_their_path() {
    for (config, wanted) in [(serde_json::json!({"user": "u", "hots": "x"}), "hots"), (serde_json::json!({}), "user")] {
        let opened = Builtin::<Connector>::new().open(config, Context::standalone("shop")).await;
        let error = fails(opened);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn a_replica_is_read_at_one_point_in_time_and_by_windows() {
    let Some(primary) = Postgres::private(&Options::default()) else { return };
    let client = primary.client("postgres").await;
    client.batch_execute("CREATE TABLE t (id bigserial, at timestamptz DEFAULT now()); INSERT INTO t SELECT FROM generate_series(1, 20000)").await.expect("valid SQL");
    let replica = primary.replica().await;
    let config = serde_json::json!({"host": "127.0.0.1", "port": replica.port(), "database": "postgres", "user": "postgres",
        "password": replica.password()});
    let source = open(config).await.expect("a source");
    let how = &mut How { min_slices: 3, ..How::full() };
    let found = streams(&*source, &["public.t"]).await;
    assert_eq!(plan(&*source, &found, how).await.expect("a plan").slices.len(), 3);
    assert_range(&run(&*source, "public.t", how).await.expect("a load"), "id", 1, 20_000);
    let how = &mut How::by("at");
    let mut batches = run(&*source, "public.t", how).await.expect("the first load");
    let late = primary.client("postgres").await;
    late.batch_execute("BEGIN; INSERT INTO t DEFAULT VALUES").await.expect("valid SQL");
    client.batch_execute("INSERT INTO t DEFAULT VALUES").await.expect("valid SQL");
    replayed(&client, &replica).await;
    batches.extend(run(&*source, "public.t", how).await.expect("a window"));
    late.batch_execute("COMMIT").await.expect("a commit");
    replayed(&client, &replica).await;
    batches.extend(run(&*source, "public.t", how).await.expect("a window"));
    assert_range(&batches, "id", 1, 20_002);
}

/// Waits until the replica has what the primary has.
async fn replayed(primary: &tokio_postgres::Client, replica: &Postgres) {
    let at: String = primary.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.expect("valid SQL").get(0);
    let client = replica.client("postgres").await;
    let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{at}'::pg_lsn");
    while !client.query_one(&sql, &[]).await.expect("valid SQL").get::<_, bool>(0) {
        tokio::task::yield_now().await;
    }
}
