//! A server that throttles, fails, cuts, forgets, and ends sessions; processes that die.

use ingest_core::{ErrorKind, Mode};
use ingest_testkit::lake::{Ended, Lake};
use ingest_testkit::salesforce::{Fault, JobFault};
use serde_json::json;

use crate::harness::{DAY, Lab, MINUTE, NOW};

#[tokio::test(start_paused = true)]
async fn stand_in_with_10000_rows_under_bursts_of_faults_equals_the_lake_after_three_runs() {
    let lab = Lab::start().await;
    for object in ["Account", "Contact", "Invoice__c"] {
        lab.server.seed(object, 4_000, NOW - 90 * DAY, NOW - DAY);
    }
    let streams = ["Account", "Contact", "Invoice__c"];
    let mut lake = Lake::new(1);
    for round in 0..3_u64 {
        lab.server.faults([Fault::Concurrent, Fault::Status(500), Fault::SessionEnds, Fault::Status(503), Fault::Cut]);
        lab.server.chaos(round, 0.05);
        let source = lab.open_with(json!({"bulk_from": 1_000, "bulk_page_size": 500})).await.unwrap();
        lake.run(source.as_ref(), &streams, Mode::Incremental).await.unwrap();
        lab.server.chaos(0, 0.0);
        for object in streams {
            lake.assert_equals(object, &["Id"], &lab.server.truth(object));
            let ids: Vec<String> = lab.server.truth(object).into_keys().collect();
            ids.iter().step_by(53).for_each(|id| lab.server.update(object, id, json!({"Name": format!("{round}")})));
            ids.iter().skip(7).step_by(211).for_each(|id| lab.server.delete(object, id));
            lab.server.insert(object, json!({}));
        }
        lab.server.advance(6 * MINUTE);
    }
    assert!(lab.server.exchanges().len() >= 3 * 2, "each session ended once");
}

#[tokio::test]
async fn stand_in_a_run_killed_at_any_mark_goes_on_as_if_nothing_had_happened() {
    for bulk_from in [10, 100_000] {
        let lab = Lab::start().await;
        lab.server.state().page_rows = 200;
        lab.server.seed("Account", 1_500, NOW - 90 * DAY, NOW - DAY);
        let more = json!({"bulk_from": bulk_from, "bulk_page_size": 200});
        for mark in 1.. {
            let mut lake = Lake::new(1);
            let source = lab.open_with(more.clone()).await.unwrap();
            let ended = lake.run_until(source.as_ref(), &["Account"], Mode::Incremental, mark).await.unwrap();
            if ended == Ended::Whole {
                assert!(mark > 7, "{mark} marks");
                break;
            }
            // Another process, to which the job or the place is all that is known.
            let other = lab.open_with(more.clone()).await.unwrap();
            lake.run(other.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
            assert_eq!(lake.rows("Account").len(), 1_500, "killed at mark {mark}");
            lake.assert_equals("Account", &["Id"], &lab.server.truth("Account"));
        }
    }
}

#[tokio::test]
async fn stand_in_a_query_that_was_forgotten_goes_on_behind_its_last_row() {
    let lab = Lab::start().await;
    lab.server.state().page_rows = 200;
    lab.server.seed("Account", 900, NOW - DAY, NOW - 10 * MINUTE);
    // In the middle of a run, and between two.
    lab.server.before(4, |state| state.forget_queries());
    let mut lake = Lake::new(1);
    lake.run_until(lab.open().await.as_ref(), &["Account"], Mode::Incremental, 3).await.unwrap();
    lab.server.state().forget_queries();
    lake.run(lab.open().await.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("Account").len(), 900);
    lake.assert_equals("Account", &["Id"], &lab.server.truth("Account"));
}

#[tokio::test]
async fn stand_in_a_page_of_results_that_ends_early_is_read_again() {
    for rows in [1, 2, 150] {
        let lab = Lab::start().await;
        lab.server.seed("Account", 300, NOW - DAY, NOW - 10 * MINUTE);
        lab.server.state().cut_results = rows;
        let source = lab.open_with(json!({"bulk_from": 10})).await.unwrap();
        let mut lake = Lake::new(1);
        lake.run(source.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
        assert_eq!(lake.rows("Account").len(), 300);
        assert!(lake.quarantined.is_empty(), "what was torn is no bad record");
    }
}

#[tokio::test]
async fn stand_in_failed_and_aborted_jobs_are_made_again_a_few_times() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 300, NOW - DAY, NOW - 10 * MINUTE);
    let more = json!({"bulk_from": 10});
    lab.server.state().job_faults.extend([JobFault::Failed, JobFault::Aborted]);
    let mut lake = Lake::new(1);
    lake.run(lab.open_with(more.clone()).await.unwrap().as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("Account").len(), 300);
    lab.server.state().job_faults.extend([JobFault::Failed; 3]);
    let mut lake = Lake::new(1);
    let source = lab.open_with(more.clone()).await.unwrap();
    let error = lake.run(source.as_ref(), &["Account"], Mode::Incremental).await.expect_err("three failed");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, false));
    let text = format!("{error:?}");
    assert!(text.contains("InternalServerError") && !text.contains("canary"), "{text}");
    lake.run(lab.open_with(more).await.unwrap().as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("Account").len(), 300, "the next run begins anew");
}

#[tokio::test]
async fn stand_in_an_object_that_the_bulk_api_refuses_is_read_by_pages() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 300, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.state().job_faults.extend([JobFault::Refused]);
    let mut lake = Lake::new(1);
    let source = lab.open_with(json!({"bulk_from": 10})).await.unwrap();
    lake.run(source.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("Account").len(), 300);
}

#[tokio::test]
async fn stand_in_a_job_that_is_gone_in_the_middle_of_its_results_is_planned_again() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 300, NOW - DAY, NOW - 10 * MINUTE);
    let more = json!({"bulk_from": 10, "bulk_page_size": 100});
    let mut lake = Lake::new(1);
    let source = lab.open_with(more.clone()).await.unwrap();
    // The job, and its first page.
    lake.run_until(source.as_ref(), &["Account"], Mode::Incremental, 2).await.unwrap();
    lab.server.state().forget_jobs();
    let error = lake.run(source.as_ref(), &["Account"], Mode::Incremental).await.expect_err("rows were committed");
    assert_eq!(error.kind(), ErrorKind::SliceExpired);
    // Before its first page nothing is lost.
    let mut lake = Lake::new(1);
    lake.run_until(source.as_ref(), &["Account"], Mode::Incremental, 1).await.unwrap();
    lab.server.state().forget_jobs();
    lake.run(source.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("Account").len(), 300);
}

#[tokio::test]
async fn stand_in_a_used_up_day_ends_the_run_with_what_was_committed() {
    let lab = Lab::start().await;
    lab.server.state().page_rows = 200;
    lab.server.seed("Account", 1_000, NOW - DAY, NOW - 10 * MINUTE);
    // Our share, and what the server itself refuses.
    for fault in [None, Some(Fault::Quota)] {
        let mut lake = Lake::new(1);
        match fault {
            None => lab.server.before(4, |state| state.usage = (900, 1_000)),
            Some(fault) => lab.server.before(4, move |state| state.fail(fault)),
        }
        let error =
            lake.run(lab.open().await.as_ref(), &["Account"], Mode::Incremental).await.expect_err("no more calls");
        assert_eq!(error.kind(), ErrorKind::QuotaExhausted, "{error:?}");
        let kept = lake.rows("Account").len();
        assert!(kept > 0 && kept < 1_000, "{kept} rows are committed");
        lab.server.state().usage = (0, 1_000);
        lake.run(lab.open().await.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
        assert_eq!(lake.rows("Account").len(), 1_000);
    }
}

#[tokio::test]
async fn stand_in_a_field_that_is_hidden_in_the_middle_of_a_run_is_named() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 100, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.before(2, |state| state.hide("Account", "AnnualRevenue"));
    let mut lake = Lake::new(1);
    let error = lake.run(lab.open().await.as_ref(), &["Account"], Mode::Incremental).await.expect_err("hidden");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(format!("{error:?}").contains("field AnnualRevenue"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn stand_in_a_web_page_in_place_of_data_is_refused() {
    let lab = Lab::start().await;
    lab.server.faults([Fault::Html]);
    let error = Lake::new(1).run(lab.open().await.as_ref(), &["Account"], Mode::Full).await.expect_err("no data");
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
}
