//! What each of the three shapes can tell between runs: changes, deletes, new parents, late rows.

use ingest_core::Mode;

use crate::harness::{Table, full, github, hubspot, hubspot_stand_in, open, seconds_now, shop};
use crate::stand_ins::{GitHub, Shop, StandIn};

/// The server's clock is behind ours and moves with the test; the connector goes by it.
fn then() -> i64 {
    seconds_now() - 10 * 86_400
}

#[tokio::test]
async fn stand_in_github_gives_what_changed_and_the_old_issues_of_a_new_repository() {
    let server = StandIn::start(GitHub::new(then())).await;
    let source = open(github(server.url())).await.unwrap();
    let mut table = Table::default();
    let all = server.state().issues.len();
    assert_eq!(table.read(source.as_ref(), "issues", Mode::Incremental).await.unwrap(), all);
    assert_eq!(table.warnings.len(), 1, "one repository has no issues: {:?}", table.warnings);
    assert!(table.rows.iter().all(|row| row["repo"].as_str().unwrap().starts_with("repo ")));
    {
        let mut api = server.state();
        api.touch(3);
        api.add_repo("given");
        let now = api.now;
        api.add_issue("given", now - 1_000_000, 0);
        api.now += 100;
    }
    assert_eq!(table.read(source.as_ref(), "issues", Mode::Incremental).await.unwrap(), 2);
    assert_eq!(table.read(source.as_ref(), "issues", Mode::Incremental).await.unwrap(), 0);
}

#[tokio::test]
async fn stand_in_github_row_that_is_shown_late_is_read_because_the_bound_lags() {
    let server = StandIn::start(GitHub::new(then())).await;
    let source = open(github(server.url())).await.unwrap();
    let mut table = Table::default();
    table.read(source.as_ref(), "issues", Mode::Incremental).await.unwrap();
    let late = {
        let mut api = server.state();
        let now = api.now;
        let late = api.add_issue("repo 1/ü", now, 50);
        api.now += 40;
        late.to_string()
    };
    for (advance, want) in [(0, false), (100, true), (100, true)] {
        server.state().now += advance;
        table.read(source.as_ref(), "issues", Mode::Incremental).await.unwrap();
        let times = table.column("id").iter().filter(|id| **id == late).count();
        assert_eq!(times, usize::from(want));
    }
}

#[tokio::test]
async fn stand_in_hubspot_marks_archived_contacts_as_deleted() {
    let server = hubspot_stand_in().await;
    assert!(full(hubspot(server.url()), "contacts").await.unwrap().column("_ingest_op").iter().all(|op| op == "R"));
    server.state().archive(103);
    let live = full(hubspot(server.url()), "contacts").await.unwrap();
    let archived = full(hubspot(server.url()), "contacts_archived").await.unwrap();
    assert_eq!((live.rows.len(), archived.rows.len()), (69, 1));
    assert_eq!((archived.column("id"), archived.column("_ingest_op")), (vec!["103".into()], vec!["D".into()]));
    let inside = &live.rows[0]["properties"]["email"];
    assert_eq!(inside, "c100@example.com");
}

#[tokio::test]
async fn stand_in_shop_is_read_in_windows_and_says_what_was_deleted() {
    let server = StandIn::start(Shop::new(then())).await;
    let source = open(shop(server.url())).await.unwrap();
    let mut table = Table::default();
    assert_eq!(table.read(source.as_ref(), "orders", Mode::Incremental).await.unwrap(), 37);
    assert_eq!(table.rows[0]["total"], "1.50", "decimals are exact");
    {
        let mut api = server.state();
        let now = api.now;
        let order = api.orders.get_mut(&9).unwrap();
        (order.deleted, order.modified) = (true, now);
        api.now += 60;
    }
    assert_eq!(table.read(source.as_ref(), "orders", Mode::Incremental).await.unwrap(), 1);
    let last = table.rows.last().unwrap();
    assert_eq!((&last["id"], &last["_ingest_op"]), (&9.into(), &"D".into()));
}

#[tokio::test]
async fn stand_in_shop_events_newest_first_end_with_the_first_page_that_is_known() {
    let server = StandIn::start(Shop::new(then())).await;
    let source = open(shop(server.url())).await.unwrap();
    let mut table = Table::default();
    assert_eq!(table.read(source.as_ref(), "events", Mode::Incremental).await.unwrap(), 33);
    {
        let mut api = server.state();
        let now = api.now;
        api.event(now);
        api.now += 60;
    }
    let before = server.hits();
    assert_eq!(table.read(source.as_ref(), "events", Mode::Incremental).await.unwrap(), 1);
    // One to learn the time; then a page with the new event beside old ones.
    assert_eq!(server.hits() - before, 2);
}
