use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutMode, PutOptions, WriteMultipart};

use super::*;

fn path(text: &str) -> Path {
    Path::from(text)
}

fn create() -> PutOptions {
    PutMode::Create.into()
}

async fn text(store: &dyn ObjectStore, at: &str) -> Option<String> {
    let bytes = store.get(&path(at)).await.ok()?.bytes().await.unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn without_faults_it_is_the_inner_store() {
    let store = FaultStore::in_memory();
    store.put(&path("a/1"), "one".into()).await.unwrap();
    store.put_opts(&path("a/2"), "two".into(), create()).await.unwrap();
    let exists = store.put_opts(&path("a/2"), "again".into(), create()).await.unwrap_err();
    assert!(matches!(exists, Error::AlreadyExists { .. }));
    store.copy(&path("a/1"), &path("b/1")).await.unwrap();
    store.rename(&path("b/1"), &path("b/2")).await.unwrap();
    assert_eq!(text(&store, "b/2").await.as_deref(), Some("one"));
    assert_eq!(store.get_ranges(&path("a/1"), &[0..1, 2..3]).await.unwrap(), ["o", "e"]);
    let listed: Vec<_> = store.list(Some(&path("a"))).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
    assert_eq!(listed, ["a/1", "a/2"]);
    let after: Vec<_> = store.list_with_offset(None, &path("a/2")).try_collect().await.unwrap();
    assert_eq!(after.len(), 1);
    assert_eq!(store.list_with_delimiter(None).await.unwrap().common_prefixes.len(), 2);
    store.delete(&path("a/1")).await.unwrap();
    assert_eq!(text(&store, "a/1").await, None);
    assert_eq!(store.count(Operation::Put, "a/*"), 3);
}

#[tokio::test]
async fn a_refused_write_changes_nothing_and_a_script_is_used_up() {
    let store = FaultStore::in_memory();
    store.script(Operation::Put, "log/*", [Fault::Pass, Fault::Refuse, Fault::Deny]);
    store.put(&path("log/0"), "x".into()).await.unwrap();
    let refused = store.put(&path("log/1"), "x".into()).await.unwrap_err();
    assert!(is_injected(&refused));
    let denied = store.put(&path("log/1"), "x".into()).await.unwrap_err();
    assert!(matches!(denied, Error::PermissionDenied { .. }));
    assert_eq!(text(&store, "log/1").await, None);
    store.put(&path("log/1"), "x".into()).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_leaves_the_write_done() {
    let store = FaultStore::in_memory();
    store.script(Operation::Put, "*", [Fault::LoseAnswer]);
    assert!(store.put_opts(&path("1"), "mine".into(), create()).await.is_err());
    assert_eq!(text(&store, "1").await.as_deref(), Some("mine"));
}

#[tokio::test]
async fn a_repeated_create_says_that_its_own_object_exists() {
    let store = FaultStore::in_memory();
    store.script(Operation::Put, "*", [Fault::Repeat]);
    let error = store.put_opts(&path("1"), "mine".into(), create()).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }));
    assert_eq!(text(&store, "1").await.as_deref(), Some("mine"));
}

#[tokio::test]
async fn a_late_create_lands_only_where_nobody_was_first() {
    let store = FaultStore::in_memory();
    store.script(Operation::Put, "*", [Fault::LandLate, Fault::LandLate]);
    assert!(store.put_opts(&path("1"), "late".into(), create()).await.is_err());
    assert!(store.put_opts(&path("2"), "late".into(), create()).await.is_err());
    store.put_opts(&path("1"), "first".into(), create()).await.unwrap();
    assert_eq!(text(&store, "2").await, None);
    assert_eq!((store.late(), store.land().await, store.late()), (2, 2, 0));
    assert_eq!(text(&store, "1").await.as_deref(), Some("first"));
    assert_eq!(text(&store, "2").await.as_deref(), Some("late"));
}

#[tokio::test]
async fn a_held_write_waits_for_its_release() {
    let store = FaultStore::in_memory();
    store.always(Operation::Put, "*", Fault::Hold);
    let write = tokio::spawn({
        let store = store.clone();
        async move { store.put(&path("1"), "x".into()).await }
    });
    store.until(|s| s.held() == 1).await;
    assert_eq!(text(&store, "1").await, None);
    store.heal();
    write.await.unwrap().unwrap();
    assert_eq!(text(&store, "1").await.as_deref(), Some("x"));
    assert_eq!(store.held(), 0);
}

#[tokio::test]
async fn bodies_and_lists_are_cut_in_the_middle() {
    let store = FaultStore::in_memory();
    for name in ["a", "b", "c"] {
        store.put(&path(name), "0123456789".into()).await.unwrap();
    }
    store.script(Operation::Get, "a", [Fault::Cut(4)]);
    let mut body = store.get(&path("a")).await.unwrap().into_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), "0123");
    assert!(body.next().await.unwrap().is_err());
    store.script(Operation::List, "*", [Fault::Cut(2)]);
    let listed: Vec<_> = store.list(None).collect().await;
    assert_eq!(listed.iter().map(|r| r.is_ok()).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test]
async fn an_upload_in_parts_fails_at_each_of_its_steps() {
    for (operation, fault, visible) in [
        (Operation::StartUpload, Fault::Refuse, false),
        (Operation::Part, Fault::Refuse, false),
        (Operation::CompleteUpload, Fault::Refuse, false),
        (Operation::CompleteUpload, Fault::LoseAnswer, true),
    ] {
        let store = FaultStore::in_memory();
        store.script(operation, "*", [fault]);
        let written = async {
            let mut writer = WriteMultipart::new(store.put_multipart(&path("big")).await?);
            writer.write(&vec![b'x'; 12 << 20]);
            writer.finish().await
        };
        assert!(written.await.is_err(), "{operation:?} {fault:?}");
        assert_eq!(text(&store, "big").await.is_some(), visible, "{operation:?} {fault:?}");
    }
    let store = FaultStore::in_memory();
    let mut writer = WriteMultipart::new(store.put_multipart(&path("big")).await.unwrap());
    writer.write(&vec![b'x'; 12 << 20]);
    writer.finish().await.unwrap();
    assert_eq!(store.head(&path("big")).await.unwrap().size, 12 << 20);
    store.script(Operation::CompleteUpload, "*", [Fault::LandLate]);
    let mut writer = WriteMultipart::new(store.put_multipart(&path("late")).await.unwrap());
    writer.write(b"x");
    assert!(writer.finish().await.is_err());
    assert_eq!(text(&store, "late").await, None);
    store.land().await;
    assert_eq!(text(&store, "late").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn one_seed_gives_one_history() {
    async fn history(seed: u64) -> Vec<Record> {
        let store = FaultStore::in_memory();
        store.random(seed, Odds::default());
        for i in 0..300 {
            let at = path(&format!("{}", i % 40));
            let _ = store.put_opts(&at, "x".into(), create()).await;
            let _ = store.get(&at).await;
        }
        store.log()
    }
    let log = history(7).await;
    assert_eq!(log, history(7).await);
    assert_ne!(log, history(8).await);
    for outcome in [Outcome::Refused, Outcome::Lost, Outcome::Late, Outcome::Landed, Outcome::Failed] {
        assert!(log.iter().any(|r| r.outcome == outcome), "{outcome:?}");
    }
}
