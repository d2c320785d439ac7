//! Change capture of PostgreSQL from outside: every change is in the lake once, in the order of commits, whatever happens.

use std::fmt::Write;
use std::time::Duration;

use ingest_testkit::oracle::Rows;
use ingest_testkit::postgres::{Database, Options, Postgres};
use ingest_testkit::python::{Reader, rows};
use serde_json::{Map, Value};

use crate::capture::replay::{Shape, replay};
use crate::cli::Project;
use crate::sample_database::truth::{Relation, Types};
use crate::sample_database::{CHANGES, SCHEMA, folder, found};
use crate::survive::{Ended, chance, run_and_kill, run_to_failpoint};

const RUN: [&str; 5] = ["run", "--source", "db", "--progress", "off"];

/// A server, a database, and a project that captures its changes. No other test may be on the server: a transaction that is
/// open somewhere holds up the making of slots.
struct Lab {
    server: Postgres,
    database: Database,
    project: Project,
    streams: Vec<String>,
}

impl Lab {
    async fn new(sql: &str, options: &str) -> Option<Self> {
        let server =
            Postgres::private(&Options { settings: &[("logical_decoding_work_mem", "64kB")], ..Options::default() })?;
        let database = server.database().await;
        database.client.batch_execute(sql).await.expect("valid SQL");
        if sql.contains("PROCEDURE churn") {
            // It ends transactions, so it stands alone.
            database.client.batch_execute("CALL churn(60)").await.expect("valid SQL");
        }
        let streams = Self::tables(&database).await;
        let mut text = String::from("lake: {commit_interval: 0s}\nsources:\n  db:\n    connector: postgres\n");
        let (port, name) = (server.port(), &database.name);
        writeln!(text, "    host: 127.0.0.1\n    port: {port}\n    database: {name}\n    user: postgres")
            .expect("to memory");
        text.push_str("    password: ${DB_PASSWORD}\n    streams:\n");
        for stream in &streams {
            writeln!(text, "      {stream:?}: {options}").expect("to memory");
        }
        let project = Project::new(&text).set("DB_PASSWORD", server.password());
        Some(Self { server, database, project, streams })
    }

    /// All tables, with a replica identity where they have no key.
    async fn tables(database: &Database) -> Vec<String> {
        let sql = "SELECT n.nspname::text || '.' || c.relname, format('ALTER TABLE %I.%I REPLICA IDENTITY FULL', n.nspname, c.relname), \
              NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), c.relispartition \
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') \
              AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1";
        let mut streams = Vec::new();
        for row in database.client.query(sql, &[]).await.expect("valid SQL") {
            if row.get(2) {
                database.client.batch_execute(row.get(1)).await.expect("valid SQL");
            }
            if !row.get::<_, bool>(3) {
                streams.push(row.get(0));
            }
        }
        streams
    }

    async fn sql(&self, sql: &str) {
        self.database.client.batch_execute(sql).await.expect("valid SQL");
    }

    async fn value(&self, sql: &str) -> i64 {
        self.database.client.query_one(sql, &[]).await.expect("valid SQL").get(0)
    }

    /// Fails unless the lake says what the source holds: the log by replaying it, a merged table as it is.
    async fn assert_equal(&self, context: &str) -> Option<()> {
        let types = Types::of(&self.database).await;
        for relation in Relation::all(&self.database).await {
            if !self.streams.contains(&relation.stream) {
                continue;
            }
            let key = relation.key();
            let key: Vec<&str> = key.iter().map(String::as_str).collect();
            // The log does not carry generated columns.
            let sql = "SELECT a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname || '.' || c.relname = $1 AND a.attgenerated <> ''";
            let generated = self.database.client.query(sql, &[&relation.stream]).await.expect("valid SQL");
            let generated: Vec<String> = generated.iter().map(|row| row.get(0)).collect();
            let carried = |mut row: Map<String, Value>| {
                row.retain(|name, _| !generated.contains(name));
                row
            };
            let path = self.project.folder.path().join("lake/bronze/db").join(folder(&relation.stream));
            let log = rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await?;
            let (names, columns) = (relation.names(), relation.key());
            let shape = Shape { names: &names, key: &columns, is_keyed: relation.is_keyed(), is_exact: false };
            let copy = Rows::of(&key, found(replay(&relation.stream, &shape, log)).map(carried));
            let truth = relation.rows(&self.database, &types).await.into_iter().map(carried);
            if let Err(difference) = copy.compare(&Rows::of(&key, truth)) {
                panic!("{context}: {}: {difference}", relation.stream);
            }
        }
        Some(())
    }
}

/// Tables with what makes change capture hard, and a procedure that changes them at random.
const CHURNED: &str = "
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN price AS numeric(12,2);
CREATE TABLE item (id bigint PRIMARY KEY, name text, amount price, at timestamptz, tags text[], doc jsonb, spot point, state mood,
  size int4range, worth money, double_amount numeric GENERATED ALWAYS AS (amount * 2) STORED, big text);
ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
CREATE TABLE pair (a int, b text, note text, PRIMARY KEY (a, b));
CREATE TABLE whole (id int PRIMARY KEY, note text, big text);
ALTER TABLE whole ALTER big SET STORAGE EXTERNAL;
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE parted (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2020-01-01') TO ('2020-02-01');
CREATE TABLE parted_2 (note text, day date NOT NULL, id int NOT NULL);
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM ('2020-02-01') TO ('2021-01-01');
CREATE TABLE loose (note text, n int);
CREATE FUNCTION big() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 120) $$;
CREATE PROCEDURE churn(steps int) LANGUAGE plpgsql AS $$
DECLARE r float8; k int;
BEGIN
  FOR step IN 1..steps LOOP
    FOR i IN 1..(random() * 8)::int LOOP
      r := random(); k := (random() * 200)::int;
      IF r < .25 THEN
        INSERT INTO item (id, name, amount, at, tags, doc, spot, state, size, worth, big)
          VALUES (k, 'n' || random(), random() * 1000, clock_timestamp(), ARRAY['a', NULL, 'b' || k], jsonb_build_object('k', k),
            point(k, -k), 'good', int4range(k, k + 5), (k * 1.25)::numeric::money, big())
          ON CONFLICT (id) DO UPDATE SET name = excluded.name, at = excluded.at;
      ELSIF r < .45 THEN UPDATE item SET amount = random() * 100, state = 'bad' WHERE id = k;
      ELSIF r < .5 THEN UPDATE item SET big = big() WHERE id = k;
      ELSIF r < .58 THEN DELETE FROM item WHERE id = k;
      ELSIF r < .66 THEN INSERT INTO pair VALUES (k, 'b', 'x' || random()) ON CONFLICT (a, b) DO UPDATE SET note = excluded.note;
      ELSIF r < .7 THEN UPDATE pair SET a = a + 1000 WHERE a = k AND NOT EXISTS (SELECT FROM pair p WHERE p.a = k + 1000);
      ELSIF r < .74 THEN DELETE FROM pair WHERE a = k + 1000;
      ELSIF r < .8 THEN INSERT INTO whole VALUES (k, 'w', big()) ON CONFLICT (id) DO UPDATE SET note = 'u' || random();
      ELSIF r < .83 THEN UPDATE whole SET id = id + 1000 WHERE id = k AND NOT EXISTS (SELECT FROM whole w WHERE w.id = k + 1000);
      ELSIF r < .9 THEN INSERT INTO parted VALUES (k, date '2020-01-01' + k, 'p') ON CONFLICT (id, day) DO UPDATE SET note = 'q' || random();
      ELSIF r < .93 THEN UPDATE parted SET day = date '2020-01-01' + ((id + 31) % 200) WHERE id = k
        AND NOT EXISTS (SELECT FROM parted p WHERE p.id = k AND p.day = date '2020-01-01' + ((k + 31) % 200));
      ELSIF r < .96 THEN INSERT INTO loose VALUES ('l' || k % 5, k % 3);
      ELSE UPDATE loose SET n = n + 1 WHERE note = 'l' || k % 5;
      END IF;
    END LOOP;
    IF random() < .02 THEN TRUNCATE pair; END IF;
    IF random() < .15 THEN ROLLBACK; ELSE COMMIT; END IF;
  END LOOP;
END $$;";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_all_kinds_of_types_is_the_same_after_its_changes_were_captured() {
    let Some(lab) = Lab::new(SCHEMA, "{mode: cdc}").await else { return };
    lab.project.good(&RUN);
    if lab.assert_equal("the first load").await.is_none() {
        return;
    }
    // A partition that is taken off leaves no trace in the log.
    lab.sql("DELETE FROM payment_card_old").await;
    lab.sql(CHANGES).await;
    lab.project.good(&RUN);
    lab.assert_equal("after changes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_under_load_come_once_and_in_order() {
    for options in ["{mode: cdc}", "{mode: cdc, write: merge, key: KEY}"] {
        let sql = if options.contains("merge") {
            CHURNED
                .replace("CREATE TABLE loose (note text, n int)", "CREATE TABLE loose (note text PRIMARY KEY, n int)")
                .replace(
                    "INSERT INTO loose VALUES ('l' || k % 5, k % 3)",
                    "INSERT INTO loose VALUES ('l' || k % 5, k % 3) ON CONFLICT DO NOTHING",
                )
        } else {
            CHURNED.to_owned()
        };
        let Some(lab) = Lab::new(&sql, &options.replace(", key: KEY", "")).await else { return };
        let client = lab.server.client(&lab.database.name).await;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let writer = tokio::spawn(async move {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                client.batch_execute("CALL churn(5)").await.expect("valid SQL");
                // A load that a debug build can follow.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        for _ in 0..3 {
            tokio::task::block_in_place(|| lab.project.good(&RUN));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.await.expect("the writer does not fail");
        lab.project.good(&RUN);
        lab.assert_equal(options).await;
        let output = lab.project.good(&["run", "--source", "db", "--progress", "json"]);
        let last: Value = serde_json::from_str(output.stdout.lines().last().expect("a line")).expect("JSON");
        assert_eq!(last["rows_read"].as_u64().or(last["totals"]["rows_read"].as_u64()), Some(0), "{last}");
        // Everything is confirmed: the server keeps no more log than since then.
        let behind = lab
            .value("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::int8 FROM pg_replication_slots")
            .await;
        assert!(behind < 1 << 20, "{behind} bytes of log are kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_loses_and_doubles_no_change() {
    let kills = std::env::var("INGEST_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let Some(lab) = Lab::new(CHURNED, "{mode: cdc}").await else { return };
    let (mut killed, mut seed) = (0_u64, 0x2545_f491_4f6c_dd1d);
    // Half of the kills fall into the first load, as a rule; the others into what follows.
    let mut longest = 900;
    while killed < kills {
        if killed == kills / 2 {
            let start = std::time::Instant::now();
            lab.project.good(&RUN);
            longest = u64::try_from(start.elapsed().as_millis()).expect("soon");
        }
        match run_and_kill(&lab.project, &RUN, Duration::from_millis(chance(&mut seed, longest))) {
            Ended::Killed => killed += 1,
            Ended::With(0) => {}
            ended => panic!("{ended:?}"),
        }
        lab.sql("CALL churn(20)").await;
    }
    lab.project.good(&RUN);
    lab.assert_equal("after random kills").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_dies_at_any_place_loses_and_doubles_no_change() {
    let Some(lab) = Lab::new(CHURNED, "{mode: cdc}").await else { return };
    let places =
        ["lease_taken", "extract", "file_closed", "document_written", "committed", "feed_written", "acknowledged"];
    for place in places {
        let mut reached = 0;
        for n in 1..=2 {
            lab.sql("CALL churn(20)").await;
            reached += u32::from(run_to_failpoint(&lab.project, &RUN, place, n));
        }
        assert!(reached > 0, "no run has passed {place}");
    }
    lab.project.good(&RUN);
    lab.assert_equal("after a death at every place").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_follows_brings_changes_until_it_is_stopped_and_confirms_them_meanwhile() {
    let Some(lab) = Lab::new(CHURNED, "{mode: cdc}").await else { return };
    let mut child = lab
        .project
        .command(&["run", "--source", "db", "--progress", "off", "--follow"])
        .spawn()
        .expect("the program starts");
    let confirmed =
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'ingest' AND active AND confirmed_flush_lsn >= ";
    for _ in 0..3 {
        lab.sql("CALL churn(20)").await;
        let at = lab.database.client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.expect("valid SQL");
        let reached = format!("{confirmed} '{}'::pg_lsn", at.get::<_, String>(0));
        let start = std::time::Instant::now();
        while lab.value(&reached).await == 0 {
            assert!(start.elapsed() < Duration::from_secs(120), "changes are not confirmed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        lab.assert_equal("while it follows").await;
    }
    std::process::Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
    // Everything that was read is committed: it has done what it was asked for.
    assert_eq!(child.wait().expect("a child of ours").code(), Some(0));
    lab.sql("CALL churn(20)").await;
    lab.project.good(&RUN);
    lab.assert_equal("after it was stopped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_join_change_their_columns_and_are_loaded_again_while_the_others_go_on() {
    let Some(mut lab) = Lab::new(CHURNED, "{mode: cdc}").await else { return };
    let all = lab.streams.clone();
    lab.streams.retain(|stream| stream == "public.item" || stream == "public.pair");
    lab.project.good(&[&RUN[..], &["--select", "public.item,public.pair"]].concat());
    lab.sql("CALL churn(30)").await;
    // The publication has the tables of the first run alone.
    let refused = lab.project.run(&RUN);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("ALTER PUBLICATION \"ingest\" ADD TABLE"), "{refused:?}");
    lab.assert_equal("the others went on").await;
    let dry = lab.project.good(&["source", "setup", "--source", "db", "--dry-run"]);
    assert!(dry.stdout.contains("ADD TABLE") && !dry.stdout.contains("slot"), "{dry:?}");
    lab.project.good(&["source", "setup", "--source", "db"]);
    lab.streams = all;
    lab.sql("CALL churn(30)").await;
    lab.project.good(&RUN);
    lab.assert_equal("all tables").await;
    // Columns change among the rows.
    lab.sql(
        "UPDATE pair SET note = 'before'; ALTER TABLE pair ADD extra numeric(10,3); UPDATE pair SET extra = 1.5 WHERE a % 2 = 0; \
         ALTER TABLE whole RENAME note TO remark; UPDATE whole SET remark = 'renamed'; ALTER TYPE mood ADD VALUE 'new';",
    )
    .await;
    lab.sql("UPDATE item SET state = 'new'; ALTER TABLE pair ALTER extra TYPE numeric(12,3); INSERT INTO pair VALUES (-1, 'x', 'y', 12.125)").await;
    lab.project.good(&[&RUN[..], &["--exclude", "public.whole"]].concat());
    lab.streams.retain(|stream| stream != "public.whole");
    lab.assert_equal("after its columns changed").await;
    lab.sql("ALTER TABLE whole RENAME remark TO note").await;
    // Somebody throws the slot away: each stream stops, and is loaded again by itself.
    lab.sql("SELECT pg_drop_replication_slot('ingest')").await;
    let stopped = lab.project.run(&RUN);
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert!(
        stopped.stderr.contains("the replication slot is gone") && stopped.stderr.contains("--resync public.item"),
        "{stopped:?}"
    );
    lab.project.good(&[&RUN[..], &["--full-refresh"]].concat());
    lab.sql("CALL churn(30)").await;
    lab.project.good(&RUN);
    lab.assert_equal("after all was loaded again").await;
    let teardown = lab.project.good(&["source", "teardown", "--source", "db"]);
    assert!(teardown.stdout.contains("pg_drop_replication_slot") && teardown.stdout.contains("DROP PUBLICATION"));
    assert_eq!(lab.value("SELECT count(*) FROM pg_replication_slots").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_lists_everything_that_change_capture_lacks_with_the_statement_for_it() {
    let settings = [("wal_level", "replica"), ("max_replication_slots", "0")];
    let Some(server) = Postgres::private(&Options { settings: &settings, ..Options::default() }) else { return };
    let database = server.database().await;
    database
        .client
        .batch_execute(
            "CREATE ROLE reader LOGIN PASSWORD 'r'; CREATE TABLE keyed (id int PRIMARY KEY, note text); CREATE TABLE keyless (id int); \
             CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        )
        .await
        .expect("valid SQL");
    let project = Project::new(&format!(
        "sources:\n  db:\n    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    user: reader\n    \
         password: r\n    defaults: {{mode: cdc}}\n    streams: {{public.*: {{}}}}\n",
        server.port(),
        database.name
    ));
    let output = project.run(&["check", "--source", "db"]);
    assert_eq!(output.code, Some(3), "{output:?}");
    for part in [
        "ALTER SYSTEM SET wal_level = logical",
        "ALTER ROLE \"reader\" REPLICATION",
        "max_replication_slots",
        "CREATE PUBLICATION \"ingest\" FOR TABLE \"public\".\"keyed\"",
        "ALTER TABLE \"public\".\"keyless\" REPLICA IDENTITY FULL",
        "unlogged",
        "public.keyed",
    ] {
        assert!(output.stdout.contains(part), "{part} is missing: {}", output.stdout);
    }
    let refused = project.run(&RUN);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("cdc:") && refused.stderr.contains("wal_level"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_comes_whole_without_what_was_rolled_back_of_it() {
    let Some(lab) = Lab::new("CREATE TABLE wide (id int PRIMARY KEY, note text)", "{mode: cdc}").await else { return };
    lab.project.good(&RUN);
    lab.sql(
        "BEGIN; INSERT INTO wide SELECT i, repeat('x', 200) FROM generate_series(1, 300000) i; SAVEPOINT s; \
         UPDATE wide SET note = 'undone'; ROLLBACK TO s; DELETE FROM wide WHERE id % 100 = 0; COMMIT",
    )
    .await;
    let output = lab.project.command(&RUN).env("INGEST__MEMORY", "64MiB").output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    lab.assert_equal("a large transaction").await;
}
