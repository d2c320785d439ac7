//! Loads, full and incremental: complete, in the fewest calls, with what was changed and deleted between runs.

use ingest_core::{Mode, Selection};
use ingest_testkit::lake::Lake;
use serde_json::json;

use crate::harness::{DAY, Lab, MINUTE, NOW};

#[tokio::test]
async fn stand_in_6000_rows_by_pages_equal_the_server_in_the_fewest_calls() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 6_000, NOW - 90 * DAY, NOW - DAY);
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    lake.assert_equals("Account", &["Id"], &lab.server.truth("Account"));
    assert_eq!(lake.rows("Account").len(), 6_000);
    // A description, a count, and pages of 2,000.
    let (calls, planned) = (lab.server.calls().len() as u64, lake.estimated_calls);
    println!("6,000 rows by pages: {calls} calls, {planned} of them estimated by the plan, 2 made by it");
    assert_eq!((calls, planned), (2 + 3, 3));
    assert_eq!(lab.server.exchanges().len(), 1);
}

#[tokio::test]
async fn stand_in_12000_rows_by_a_job_equal_the_server_in_the_fewest_calls() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 12_000, NOW - 90 * DAY, NOW - DAY);
    let source = lab.open_with(json!({"bulk_page_size": 5_000})).await.unwrap();
    let mut lake = Lake::new(1);
    lake.run(source.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    lake.assert_equals("Account", &["Id"], &lab.server.truth("Account"));
    assert_eq!(lake.rows("Account").len(), 12_000);
    // A description, a count; the job, a look at it, and pages of 5,000.
    let (calls, planned) = (lab.server.calls().len() as u64, lake.estimated_calls);
    println!("12,000 rows by a job: {calls} calls, {planned} of them estimated by the plan, 2 made by it");
    assert_eq!((calls, planned), (2 + 5, 5));
}

#[tokio::test]
async fn stand_in_what_was_changed_and_deleted_between_runs_comes_with_the_next() {
    let lab = Lab::start().await;
    for object in ["Account", "Invoice__c", "Contact"] {
        lab.server.seed(object, 5_000, NOW - 90 * DAY, NOW - DAY);
    }
    let streams = ["Account", "Contact", "Invoice__c"];
    let mut lake = Lake::new(1);
    for round in 0..3 {
        // Jobs and pages take turns.
        let source = lab.open_with(json!({"bulk_from": if round == 1 { 10 } else { 10_000 }})).await.unwrap();
        lake.run(source.as_ref(), &streams, Mode::Incremental).await.unwrap();
        for object in streams {
            lake.assert_equals(object, &["Id"], &lab.server.truth(object));
            let ids: Vec<String> = lab.server.truth(object).into_keys().collect();
            for id in ids.iter().skip(round).step_by(41) {
                lab.server.update(object, id, json!({"Name": format!("round {round}")}));
            }
            for id in ids.iter().skip(round).step_by(97) {
                lab.server.delete(object, id);
            }
            for _ in 0..20 {
                lab.server.insert(object, json!({"Name": "new"}));
            }
        }
        lab.server.advance(6 * MINUTE);
    }
    let changed = lake.rows("Account").len();
    assert!(changed > 5_000 && changed < 6_000, "only what changed is read again: {changed} rows");
    let before = lab.server.calls().len();
    lake.run(lab.open().await.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    assert_eq!(lab.server.calls().len() - before, 2 + 1, "a description, a count, a page");
}

#[tokio::test]
async fn stand_in_a_full_load_holds_what_is_there_and_nothing_deleted() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 500, NOW - DAY, NOW - 1);
    let gone = lab.server.truth("Account").into_keys().next().unwrap();
    lab.server.delete("Account", &gone);
    for bulk_from in [10, 10_000] {
        let source = lab.open_with(json!({"bulk_from": bulk_from})).await.unwrap();
        let mut lake = Lake::new(1);
        lake.run(source.as_ref(), &["Account"], Mode::Full).await.unwrap();
        assert_eq!(lake.rows("Account").len(), 499);
        lake.assert_equals("Account", &["Id"], &lab.server.truth("Account"));
    }
}

#[tokio::test]
async fn stand_in_objects_without_system_modstamp_are_read_by_what_they_have() {
    let lab = Lab::start().await;
    for object in ["AccountHistory", "TaskStatus", "Rate__c"] {
        lab.server.seed(object, 300, NOW - DAY, NOW - 10 * MINUTE);
    }
    lab.server.insert("Rate__c", json!({"LastModifiedDate": null}));
    // The Bulk API does not read TaskStatus, however many there are.
    let source = lab.open_with(json!({"bulk_from": 100})).await.unwrap();
    let mut lake = Lake::new(1);
    lake.run(source.as_ref(), &["AccountHistory", "Rate__c"], Mode::Incremental).await.unwrap();
    lake.run(source.as_ref(), &["TaskStatus"], Mode::Incremental).await.unwrap();
    for object in ["AccountHistory", "TaskStatus", "Rate__c"] {
        lake.assert_equals(object, &["Id"], &lab.server.truth(object));
    }
    // It is not even asked about TaskStatus; that it refuses Rate__c is found out.
    let jobs = lab.server.calls().iter().filter(|call| call.path.ends_with("/jobs/query")).count();
    assert_eq!(jobs, 2);
    let selection =
        Selection { select: vec!["TaskStatus".into(), "Rate__c".into(), "AccountHistory".into()], exclude: vec![] };
    let cursors: Vec<_> = source
        .schema(&selection)
        .await
        .unwrap()
        .into_iter()
        .map(|stream| stream.cursors.first().map(|c| c.column.clone()))
        .collect();
    assert_eq!(cursors, [Some("CreatedDate".into()), Some("LastModifiedDate".into()), None]);
}

#[tokio::test]
async fn stand_in_rows_whose_parent_was_deleted_stay_as_they_are() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 3, NOW - 30 * DAY, NOW - DAY);
    let parent = lab.server.truth("Account").into_keys().next().unwrap();
    lab.server.insert("Contact", json!({"AccountId": parent, "SystemModstamp": NOW - DAY}));
    let mut lake = Lake::new(1);
    lab.server.advance(6 * MINUTE);
    for _ in 0..2 {
        lake.run(lab.open().await.as_ref(), &["Account", "Contact"], Mode::Incremental).await.unwrap();
        for object in ["Account", "Contact"] {
            lake.assert_equals(object, &["Id"], &lab.server.truth(object));
        }
        lab.server.delete("Account", &parent);
        lab.server.advance(6 * MINUTE);
    }
    assert_eq!(lake.newest("Contact", &["Id"]).values().next().unwrap()["AccountId"], parent.as_str());
    assert!(!lake.newest("Account", &["Id"]).contains_key(&parent));
}

#[tokio::test]
async fn stand_in_archived_tasks_are_read_with_the_others() {
    let lab = Lab::start().await;
    lab.server.seed("Task", 50, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.insert("Task", json!({"IsArchived": true, "SystemModstamp": NOW - DAY}));
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &["Task"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("Task").len(), 51);
}

#[tokio::test]
async fn stand_in_a_large_load_is_cut_into_jobs_that_together_give_everything_once() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 4_000, NOW - 90 * DAY, NOW - DAY);
    let source = lab.open_with(json!({"bulk_from": 100, "bulk_rows": 1_000})).await.unwrap();
    for mode in [Mode::Full, Mode::Incremental] {
        let mut lake = Lake::new(1);
        lake.run(source.as_ref(), &["Account"], mode).await.unwrap();
        assert_eq!(lake.rows("Account").len(), 4_000);
        lake.assert_equals("Account", &["Id"], &lab.server.truth("Account"));
    }
    let jobs = lab.server.calls().iter().filter(|call| call.method == "POST").count();
    assert_eq!(jobs, 2 * 4);
}

#[tokio::test]
async fn stand_in_rows_that_become_visible_late_are_not_lost() {
    let lab = Lab::start().await;
    lab.server.seed("Account", 100, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.state().visible_after = 4 * MINUTE;
    let mut lake = Lake::new(1);
    for _ in 0..8 {
        lake.run(lab.open().await.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
        let id = lab.server.insert("Account", json!({"Name": "late"}));
        lab.server.advance(MINUTE);
        lab.server.update("Account", &id, json!({"Name": "later"}));
        lab.server.advance(MINUTE);
    }
    lab.server.advance(20 * MINUTE);
    lake.run(lab.open().await.as_ref(), &["Account"], Mode::Incremental).await.unwrap();
    lake.assert_equals("Account", &["Id"], &lab.server.truth("Account"));
}

#[tokio::test]
async fn stand_in_formulas_that_changed_without_a_trace_come_with_the_sweep() {
    let lab = Lab::start().await;
    lab.server.seed("Invoice__c", 30, NOW - DAY, NOW - 10 * MINUTE);
    let config = json!({"formula_sweep": "1d"});
    let mut lake = Lake::new(1);
    lake.run(lab.open_with(config.clone()).await.unwrap().as_ref(), &["Invoice__c"], Mode::Incremental).await.unwrap();
    let id = lab.server.truth("Invoice__c").into_keys().next().unwrap();
    lab.server.state().recalculate("Invoice__c", &id, json!({"Label__c": "recalculated"}));
    for (days, rows) in [(0, 30), (1, 60)] {
        lab.server.advance(days * DAY + 10 * MINUTE);
        lake.run(lab.open_with(config.clone()).await.unwrap().as_ref(), &["Invoice__c"], Mode::Incremental)
            .await
            .unwrap();
        assert_eq!(lake.rows("Invoice__c").len(), rows, "after {days} days");
    }
    lake.assert_equals("Invoice__c", &["Id"], &lab.server.truth("Invoice__c"));
}
