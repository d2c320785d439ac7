//! What commits and uploads ask of an object store, of each stand-in.

use futures::TryStreamExt;
use ingest_testkit::azurite::Azurite;
use ingest_testkit::gcs::GcsOverS3;
use ingest_testkit::s3::S3;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion, WriteMultipart};

fn only(mode: PutMode) -> PutOptions {
    mode.into()
}

/// Create-if-absent, update-if-unchanged, ranges, uploads in parts, lists with an offset, deletes.
async fn keeps_the_rules_that_commits_rest_on(store: &dyn ObjectStore) {
    let path = Path::from("lake/_ingest/1.json");
    let first = store.put_opts(&path, "one".into(), only(PutMode::Create)).await.unwrap();
    let exists = store.put_opts(&path, "two".into(), only(PutMode::Create)).await.unwrap_err();
    assert!(matches!(exists, Error::AlreadyExists { .. } | Error::Precondition { .. }), "{exists}");
    let version = UpdateVersion::from(first);
    store.put_opts(&path, "three".into(), only(PutMode::Update(version.clone()))).await.unwrap();
    let stale = store.put_opts(&path, "four".into(), only(PutMode::Update(version))).await.unwrap_err();
    assert!(matches!(stale, Error::Precondition { .. }), "{stale}");
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
    assert_eq!(store.get_range(&path, 1..3).await.unwrap(), "hr");

    let big = Path::from("lake/big.parquet");
    let mut upload = WriteMultipart::new(store.put_multipart(&big).await.unwrap());
    let bytes: Vec<u8> = (0..12u32 << 20).map(|i| (i % 251) as u8).collect();
    upload.write(&bytes);
    upload.finish().await.unwrap();
    assert_eq!(store.head(&big).await.unwrap().size, bytes.len() as u64);
    assert_eq!(store.get(&big).await.unwrap().bytes().await.unwrap(), bytes);

    let after: Vec<_> = store.list_with_offset(Some(&Path::from("lake")), &path).try_collect().await.unwrap();
    assert_eq!(after.iter().map(|m| m.location.as_ref()).collect::<Vec<_>>(), ["lake/big.parquet"]);
    store.delete(&path).await.unwrap();
    assert!(matches!(store.head(&path).await.unwrap_err(), Error::NotFound { .. }));
}

/// Of many that create one object at once, exactly one is told that it did.
async fn one_of_many_creators_wins(store: &dyn ObjectStore) {
    let path = Path::from("race");
    let create = |i: usize| {
        let path = path.clone();
        async move { store.put_opts(&path, i.to_string().into(), only(PutMode::Create)).await.is_ok() }
    };
    let won = futures::future::join_all((0..8).map(create)).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let winner = won.iter().position(|won| *won).unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), winner.to_string());
}

#[tokio::test]
async fn s3_moto_keeps_the_rules_that_commits_rest_on() {
    let Some(s3) = S3::shared().await else { return };
    let bucket = s3.bucket().await;
    keeps_the_rules_that_commits_rest_on(bucket.store().as_ref()).await;
    one_of_many_creators_wins(bucket.store().as_ref()).await;
}

#[tokio::test]
async fn azure_azurite_keeps_the_rules_that_commits_rest_on() {
    let Some(azurite) = Azurite::shared().await else { return };
    let container = azurite.container().await;
    keeps_the_rules_that_commits_rest_on(container.store().as_ref()).await;
    one_of_many_creators_wins(container.store().as_ref()).await;
}

#[tokio::test]
async fn gcs_xml_over_s3_keeps_the_rules_that_commits_rest_on() {
    let Some(gcs) = GcsOverS3::start().await else { return };
    keeps_the_rules_that_commits_rest_on(gcs.store().as_ref()).await;
    one_of_many_creators_wins(gcs.store().as_ref()).await;
}
