//! Rows that a database has deleted without a trace in the cursor vanish from the lake, over several runs.

use serde_json::Value;

use crate::late_rows::Lab;
use crate::survive::run_to_failpoint;

const RUN: [&str; 5] = ["run", "--source", "db", "--progress", "json"];

async fn lab(options: &str) -> Option<Lab> {
    let lab = Lab::new("at").await?;
    let file = lab.project.folder.path().join("ingest.yaml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    std::fs::write(&file, text.replace("write: append", options)).expect("written");
    lab.sql("INSERT INTO entry (version) SELECT 'first ' || i FROM generate_series(1, 3000) i; ANALYZE entry").await;
    Some(lab)
}

/// Runs the program, and says what it did of a sweep.
fn sweep(lab: &Lab) -> Value {
    let output = lab.project.good(&RUN);
    let last: Value = serde_json::from_str(output.stdout.lines().last().expect("a line")).expect("JSON");
    last["streams"][0]["sweep"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_database_has_deleted_vanish_over_runs_that_are_killed_and_new_ones_stay() {
    const PLACES: [(&str, u32); 5] =
        [("part_staged", 1), ("extract", 3), ("document_written", 2), ("committed", 2), ("plan_written", 1)];
    for options in [
        "write: merge, sweep: {every: 0s, budget: 300}",
        "write: merge, mask: {id: hash}, sweep: {every: 0s, budget: 300}",
    ] {
        let Some(lab) = lab(options).await else { return };
        assert_eq!(sweep(&lab), Value::Null, "the first load is as the source is");
        lab.sql("DELETE FROM entry WHERE id % 10 = 0").await;
        let (mut killed, mut runs) = (0_u32, 0);
        loop {
            lab.sql(&format!("INSERT INTO entry (version) VALUES ('new {runs}')")).await;
            let (place, n) = PLACES[runs % PLACES.len()];
            killed += u32::from(run_to_failpoint(&lab.project, &RUN, place, n));
            let swept = sweep(&lab);
            runs += 1;
            let Some(found) = lab.versions().await else { return };
            let source = lab.source().await;
            assert!(source.iter().all(|version| found.binary_search(version).is_ok()), "{options}: a row is lost");
            if swept["ended"] == true {
                assert_eq!(found, source, "{options}: {swept}");
                break;
            }
            assert!(runs < 40, "{options}: the sweep never ends: {swept}");
        }
        assert!(runs > 2 && killed > 1, "{options}: {runs} runs, {killed} killed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_sweep_survives_maintenance_and_is_forgotten_with_a_person() {
    let options = "write: merge, sweep: {every: 0s, budget: 500}";
    let Some(lab) = lab(options).await else { return };
    lab.project.good(&RUN);
    lab.sql("DELETE FROM entry WHERE id = 7").await;
    let done = |swept: &Value| {
        assert_eq!(swept["ended"], false, "{swept}");
        swept["slices_done"].as_u64().expect("a number")
    };
    let before = [done(&sweep(&lab)), done(&sweep(&lab)), done(&sweep(&lab))];
    lab.project.good(&["maintain"]);
    let after = done(&sweep(&lab));
    assert!(after > before[2] && before[2] > before[0], "what was staged is there yet: {before:?} {after}");
    // Keys that are staged are the person's too.
    lab.project.good(&["forget", "--table", "db.public_entry", "--key", "12"]);
    let anew = sweep(&lab);
    assert!(done(&anew) < after, "it begins anew: {anew}");
    for run in 0..40 {
        if sweep(&lab)["ended"] == true {
            break;
        }
        assert!(run < 39, "the sweep never ends");
    }
    let Some(found) = lab.versions().await else { return };
    // The source still has 12, but its cursor lies below the position.
    let source: Vec<String> = lab.source().await.into_iter().filter(|version| version != "first 12").collect();
    assert_eq!(found, source);
}
