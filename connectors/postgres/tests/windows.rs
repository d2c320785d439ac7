//! Incremental reads: what is new, once each, whatever commits late.

use ingest_core::{ErrorKind, Mode};

use crate::support::{How, Shop, assert_range, fails, ids, plan, read, run, streams, texts, warnings};

const EVENTS: &str = "CREATE TABLE e (id bigserial PRIMARY KEY, updated_at timestamptz DEFAULT now(), note text);
    CREATE INDEX ON e (updated_at); INSERT INTO e (note) SELECT 'old' FROM generate_series(1, 100)";

#[tokio::test]
async fn each_run_reads_what_was_committed_since_the_last() {
    for cursor in ["updated_at", "id"] {
        let Some(shop) = Shop::alone(EVENTS).await else { return };
        let source = shop.open().await;
        let how = &mut How::by(cursor);
        assert_range(&run(&*source, "public.e", how).await.expect("the first load"), "id", 1, 100);
        assert!(run(&*source, "public.e", how).await.expect("nothing new").is_empty());
        for first in [101, 111, 121] {
            shop.sql("INSERT INTO e (note) SELECT 'new' FROM generate_series(1, 10)").await;
            assert_range(&run(&*source, "public.e", how).await.expect("a window"), "id", first, first + 9);
        }
        assert!(run(&*source, "public.e", how).await.expect("nothing new").is_empty());
    }
}

#[tokio::test]
async fn a_commit_below_the_high_water_mark_is_read_once() {
    for cursor in ["updated_at", "id"] {
        let Some(shop) = Shop::alone(EVENTS).await else { return };
        let source = shop.open().await;
        let how = &mut How::by(cursor);
        run(&*source, "public.e", how).await.expect("the first load");
        // Begins first, takes the lower id and time, and is still open while others commit.
        let late = shop.server.client(&shop.database.name).await;
        late.batch_execute("BEGIN; INSERT INTO e (note) VALUES ('late')").await.expect("valid SQL");
        shop.sql("INSERT INTO e (note) VALUES ('quick')").await;
        let mut batches = run(&*source, "public.e", how).await.expect("a window");
        shop.sql("INSERT INTO e (note) VALUES ('later')").await;
        late.batch_execute("COMMIT").await.expect("a commit");
        shop.sql("INSERT INTO e (note) VALUES ('last')").await;
        batches.extend(run(&*source, "public.e", how).await.expect("a window"));
        batches.extend(run(&*source, "public.e", how).await.expect("a window"));
        assert_range(&batches, "id", 101, 104);
        assert!(run(&*source, "public.e", how).await.expect("nothing new").is_empty(), "{cursor}");
    }
}

#[tokio::test]
async fn a_late_commit_of_a_savepoint_is_read_once() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    let source = shop.open().await;
    let how = &mut How::by("id");
    run(&*source, "public.e", how).await.expect("the first load");
    let late = shop.server.client(&shop.database.name).await;
    // The row carries the number of the sub-transaction, which no list of open transactions names.
    late.batch_execute("BEGIN; SELECT txid_current(); SAVEPOINT s; INSERT INTO e (note) VALUES ('late'); RELEASE s")
        .await
        .expect("valid SQL");
    shop.sql("INSERT INTO e (note) VALUES ('quick')").await;
    let mut batches = run(&*source, "public.e", how).await.expect("a window");
    late.batch_execute("COMMIT").await.expect("a commit");
    batches.extend(run(&*source, "public.e", how).await.expect("a window"));
    batches.extend(run(&*source, "public.e", how).await.expect("a window"));
    assert_range(&batches, "id", 101, 102);
}

#[tokio::test]
async fn a_transaction_that_is_open_during_the_first_load_is_read_by_the_next_run() {
    for read_by in ["ctid", "key"] {
        let Some(shop) = Shop::alone(EVENTS).await else { return };
        let shop = shop.with("read", read_by);
        let late = shop.server.client(&shop.database.name).await;
        late.batch_execute("BEGIN; INSERT INTO e (note) VALUES ('late')").await.expect("valid SQL");
        shop.sql("INSERT INTO e (note) VALUES ('quick')").await;
        let source = shop.open().await;
        let how = &mut How::by("updated_at");
        let mut batches = run(&*source, "public.e", how).await.expect("the first load");
        late.batch_execute("COMMIT").await.expect("a commit");
        batches.extend(run(&*source, "public.e", how).await.expect("a window"));
        assert_range(&batches, "id", 1, 102);
    }
}

#[tokio::test]
async fn writers_in_parallel_lose_and_double_nothing() {
    let Some(shop) = Shop::alone(
        "CREATE TABLE e (id bigserial, updated_at timestamptz DEFAULT now()); CREATE INDEX ON e (updated_at)",
    )
    .await
    else {
        return;
    };
    let source = shop.open().await;
    let mut writers = Vec::new();
    for writer in 0..3 {
        let client = shop.server.client(&shop.database.name).await;
        writers.push(tokio::spawn(async move {
            for round in 0..60 {
                let end = if (writer + round) % 5 == 0 { "ROLLBACK" } else { "COMMIT" };
                client
                    .batch_execute(&format!("BEGIN; INSERT INTO e DEFAULT VALUES; SAVEPOINT s; INSERT INTO e DEFAULT VALUES; SELECT pg_sleep(0.00{writer}); {end}"))
                    .await
                    .expect("valid SQL");
            }
        }));
    }
    for cursor in ["updated_at", "id"] {
        let how = &mut How::by(cursor);
        let mut batches = Vec::new();
        while writers.iter().any(|writer| !writer.is_finished()) {
            batches.extend(run(&*source, "public.e", how).await.expect("a window"));
        }
        batches.extend(run(&*source, "public.e", how).await.expect("a window"));
        batches.extend(run(&*source, "public.e", how).await.expect("a window"));
        let truth = shop.texts("SELECT id FROM e ORDER BY id").await;
        let truth: Vec<i64> = truth.iter().map(|row| row[0].as_deref().expect("id").parse().expect("number")).collect();
        assert_eq!(ids(&batches, "id").len(), truth.len(), "{cursor}");
        assert_eq!(ids(&batches, "id"), truth);
    }
}

#[tokio::test]
async fn a_million_equal_cursors_are_no_trouble() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    let source = shop.open().await;
    let how = &mut How { batch_bytes: 16 << 10, ..How::by("updated_at") };
    run(&*source, "public.e", how).await.expect("the first load");
    shop.sql("INSERT INTO e (updated_at) SELECT '2026-01-01' FROM generate_series(1, 20000)").await;
    shop.sql("INSERT INTO e (note) SELECT 'now' FROM generate_series(1, 20000)").await;
    let mut batches = run(&*source, "public.e", how).await.expect("a window");
    // The same time again, committed later.
    shop.sql("INSERT INTO e (updated_at) SELECT max(updated_at) FROM e").await;
    batches.extend(run(&*source, "public.e", how).await.expect("a window"));
    let found = ids(&batches, "id");
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "none is double");
    assert_eq!(found.last(), Some(&40_101));
    assert!(found.len() >= 20_001, "all at or above the last value");
}

#[tokio::test]
async fn a_window_resumes_from_every_mark() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    let source = shop.open().await;
    let how = &mut How { batch_bytes: 16 << 10, ..How::by("updated_at") };
    run(&*source, "public.e", how).await.expect("the first load");
    // Runs of equal values of different length, and nulls at the end.
    shop.sql(
        "INSERT INTO e (updated_at) SELECT now() + (i / 700) * interval '1 second' FROM generate_series(1, 5000) i;
        INSERT INTO e (updated_at) SELECT NULL FROM generate_series(1, 50)",
    )
    .await;
    let found = streams(&*source, &["public.e"]).await;
    let plan = plan(&*source, &found, how).await.expect("a plan");
    let out = read(&*source, &plan.slices[0], None, how).await.expect("the window");
    assert_eq!(out.rows(), 5_050);
    assert!(out.marks().count() >= 3);
    for (at, event) in out.events.iter().enumerate() {
        let ingest_core::Event::Mark(mark) = event else { continue };
        let before: usize = out.events[..at]
            .iter()
            .map(|e| if let ingest_core::Event::Rows(_, batch) = e { batch.num_rows() } else { 0 })
            .sum();
        let rest = read(&*source, &plan.slices[0], Some(mark), how).await.expect("the rest");
        assert_eq!(before + rest.rows(), 5_050, "{mark:?}");
    }
}

#[tokio::test]
async fn sessions_that_come_and_go_while_a_plan_is_made_do_not_hide_what_is_open() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    let source = shop.open().await;
    let how = &mut How::by("updated_at");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let busy = async {
        let one = shop.server.client(&shop.database.name).await;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            // A session between two transactions, and one that begins and ends.
            one.batch_execute("BEGIN; SELECT 1; COMMIT; SELECT 2").await.expect("valid SQL");
            shop.server.client(&shop.database.name).await.batch_execute("SELECT 3").await.expect("valid SQL");
        }
    };
    let plans = async {
        for _ in 0..40 {
            run(&*source, "public.e", how).await.expect("a window");
            shop.sql("INSERT INTO e (note) VALUES ('new')").await;
            let position = serde_json::to_value(how.positions.values().next().expect("a position")).expect("JSON");
            assert!(position["at"]["read"]["low"].is_string(), "the next window has no lower bound: {position}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(busy, plans);
}

#[tokio::test]
async fn a_window_gives_the_same_rows_when_it_is_read_again() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    let source = shop.open().await;
    let how = &mut How::by("updated_at");
    run(&*source, "public.e", how).await.expect("the first load");
    shop.sql("INSERT INTO e (note) SELECT 'new' FROM generate_series(1, 10)").await;
    let found = streams(&*source, &["public.e"]).await;
    let plan = plan(&*source, &found, how).await.expect("a plan");
    shop.sql("INSERT INTO e (note) SELECT 'newer' FROM generate_series(1, 10); INSERT INTO e (updated_at) VALUES ('2020-01-01'), (NULL)").await;
    for _ in 0..2 {
        let other = shop.open().await;
        let out = read(&*other, &plan.slices[0], None, how).await.expect("the window");
        assert_range(&out.batches(&found[0].name).cloned().collect::<Vec<_>>(), "id", 101, 110);
    }
}

#[tokio::test]
async fn updates_come_again_with_their_new_cursor() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    let source = shop.open().await;
    let how = &mut How::by("updated_at");
    run(&*source, "public.e", how).await.expect("the first load");
    shop.sql("UPDATE e SET note = 'changed', updated_at = now() WHERE id <= 3").await;
    let batches = run(&*source, "public.e", how).await.expect("a window");
    assert_range(&batches, "id", 1, 3);
    assert_eq!(texts(&batches, "note")[0].as_deref(), Some("changed"));
}

#[tokio::test]
async fn rows_without_a_cursor_are_read_once() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    shop.sql("INSERT INTO e (updated_at) VALUES (NULL), (NULL)").await;
    let source = shop.open().await;
    let how = &mut How::by("updated_at");
    assert_range(&run(&*source, "public.e", how).await.expect("the first load"), "id", 1, 102);
    assert!(run(&*source, "public.e", how).await.expect("nothing new").is_empty());
    shop.sql("INSERT INTO e (updated_at) VALUES (NULL)").await;
    assert_range(&run(&*source, "public.e", how).await.expect("a window"), "id", 103, 103);
    assert!(run(&*source, "public.e", how).await.expect("nothing new").is_empty());
}

#[tokio::test]
async fn a_cursor_in_the_far_future_hides_nothing() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    shop.sql("INSERT INTO e (updated_at) VALUES ('infinity'), ('2999-01-01')").await;
    let source = shop.open().await;
    let how = &mut How::by("updated_at");
    assert_range(&run(&*source, "public.e", how).await.expect("the first load"), "id", 1, 102);
    shop.sql("INSERT INTO e (note) VALUES ('now')").await;
    assert_range(&run(&*source, "public.e", how).await.expect("a window"), "id", 103, 103);
    assert!(run(&*source, "public.e", how).await.expect("nothing new").is_empty());
}

#[tokio::test]
async fn a_rewritten_table_doubles_nothing_and_says_so() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    let source = shop.open().await;
    let how = &mut How::by("updated_at");
    run(&*source, "public.e", how).await.expect("the first load");
    shop.sql("ALTER TABLE e ALTER COLUMN note TYPE bytea USING note::bytea; INSERT INTO e DEFAULT VALUES").await;
    let source = shop.open().await;
    let found = streams(&*source, &["public.e"]).await;
    let plan = plan(&*source, &found, how).await.expect("a plan");
    let out = read(&*source, &plan.slices[0], None, how).await.expect("the window");
    assert_range(&out.batches(&found[0].name).cloned().collect::<Vec<_>>(), "id", 101, 101);
    assert!(
        warnings(&out)[0].contains("rewritten") && warnings(&out)[0].contains("\"updated_at\""),
        "{:?}",
        warnings(&out)
    );
}

#[tokio::test]
async fn cursors_of_every_type_move_on() {
    let Some(shop) = Shop::alone("SELECT 1").await else { return };
    for (sql_type, value) in [
        ("timestamp", "timestamp '2026-01-01' + i * interval '1 microsecond'"),
        ("timestamptz", "timestamptz '2026-01-01' + i * interval '1 microsecond'"),
        ("date", "date '2026-01-01' + i"),
        ("smallint", "i"),
        ("numeric(30,10)", "i / 7.0"),
        ("text", "to_char(i, '0000')"),
        ("uuid", "lpad(i::text, 32, '0')::uuid"),
    ] {
        shop.sql(&format!(
            "DROP TABLE IF EXISTS c; CREATE TABLE c (i int PRIMARY KEY, c {sql_type});
            INSERT INTO c SELECT i, {value} FROM generate_series(1, 50) i"
        ))
        .await;
        let source = shop.open().await;
        let how = &mut How::by("c");
        assert_range(&run(&*source, "public.c", how).await.unwrap_or_else(|e| panic!("{sql_type}: {e:?}")), "i", 1, 50);
        for i in [51, 52] {
            shop.sql(&format!("INSERT INTO c SELECT i, {value} FROM generate_series({i}, {i}) i")).await;
            assert_range(
                &run(&*source, "public.c", how).await.unwrap_or_else(|e| panic!("{sql_type}: {e:?}")),
                "i",
                i,
                i,
            );
        }
    }
}

#[tokio::test]
async fn partitions_are_read_by_windows_and_an_attached_one_is_not_lost() {
    let Some(shop) = Shop::alone(
        "CREATE TABLE p (id int, at timestamptz DEFAULT now()) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); CREATE TABLE p2 (id int, at timestamptz);
         INSERT INTO p SELECT generate_series(1, 50); INSERT INTO p2 SELECT 100 + i, now() + interval '1 s' FROM generate_series(0, 9) i",
    )
    .await
    else {
        return;
    };
    let source = shop.open().await;
    let how = &mut How::by("at");
    assert_range(&run(&*source, "public.p", how).await.expect("the first load"), "id", 1, 50);
    shop.sql("INSERT INTO p VALUES (51)").await;
    assert_range(&run(&*source, "public.p", how).await.expect("a window"), "id", 51, 51);
    shop.sql("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200)").await;
    // Its rows were written before, and are above the last position.
    let source = shop.open().await;
    assert_range(&run(&*source, "public.p", how).await.expect("a window"), "id", 100, 109);
}

#[tokio::test]
async fn a_view_is_read_by_its_cursor_alone() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    shop.sql("CREATE VIEW v AS SELECT * FROM e").await;
    let source = shop.open().await;
    let how = &mut How::by("updated_at");
    assert_range(&run(&*source, "public.v", how).await.expect("the first load"), "id", 1, 100);
    shop.sql("INSERT INTO e DEFAULT VALUES").await;
    assert_range(&run(&*source, "public.v", how).await.expect("a window"), "id", 101, 101);
    assert!(run(&*source, "public.v", how).await.expect("nothing new").is_empty());
}

#[tokio::test]
async fn an_account_that_sees_no_other_sessions_loses_nothing() {
    let Some(shop) = Shop::alone(EVENTS).await else { return };
    let role = format!("reader_{}", shop.database.name);
    shop.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT SELECT ON e TO {role}")).await;
    let shop = shop.with("user", role.as_str()).with("password", "pw");
    let source = shop.open().await;
    let how = &mut How::by("updated_at");
    run(&*source, "public.e", how).await.expect("the first load");
    let late = shop.server.client(&shop.database.name).await;
    late.batch_execute("BEGIN; INSERT INTO e (note) VALUES ('late')").await.expect("valid SQL");
    shop.sql("INSERT INTO e (note) VALUES ('quick')").await;
    let mut batches = run(&*source, "public.e", how).await.expect("a window");
    late.batch_execute("COMMIT").await.expect("a commit");
    batches.extend(run(&*source, "public.e", how).await.expect("a window"));
    assert_range(&batches, "id", 101, 102);
}

#[tokio::test]
async fn an_interval_reads_its_rows_and_moves_nothing() {
    let Some(shop) = Shop::alone("CREATE TABLE e (id int, at timestamptz); INSERT INTO e SELECT i, timestamptz '2026-01-01' + i * interval '1 hour' FROM generate_series(0, 99) i").await else { return };
    let source = shop.open().await;
    let start = 1_767_225_600_000_000_i64;
    let how = &mut How { interval: Some((start + 3_600_000_000 * 10, start + 3_600_000_000 * 20)), ..How::by("at") };
    assert_range(&run(&*source, "public.e", how).await.expect("an interval"), "id", 10, 19);
    assert!(how.positions.is_empty());
}

#[tokio::test]
async fn cursors_that_make_no_sense_are_refused() {
    let Some(shop) = Shop::alone("CREATE TABLE e (id int, flag bool, updated_at timestamptz)").await else { return };
    let source = shop.open().await;
    for (cursor, word) in [("flag", "order"), ("updated", "no column")] {
        let error = fails(run(&*source, "public.e", &mut How::by(cursor)).await);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = fails(run(&*source, "public.e", &mut How { mode: Mode::Incremental, ..How::full() }).await);
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    shop.sql("INSERT INTO e VALUES (1, true, now())").await;
    let how = &mut How::by("id");
    run(&*source, "public.e", how).await.expect("the first load");
    how.cursor = Some("updated_at".into());
    assert_eq!(fails(run(&*source, "public.e", how).await).kind(), ErrorKind::CheckpointInvalid);
}
