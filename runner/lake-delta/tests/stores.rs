//! Lakes on object stores: servers that stand in for S3, Azure and Google Cloud Storage.

use std::collections::BTreeMap;

use ingest_core::ErrorKind;
use ingest_lake_delta::DeltaFormat;
use ingest_testkit::azurite::Azurite;
use ingest_testkit::gcs::GcsOverS3;
use ingest_testkit::s3::S3;

use crate::support::*;

async fn two_runs_share_a_table(format: DeltaFormat) {
    format.probe().await.unwrap();
    let mut first = table(&format).await;
    let mut zombie = open(&format).await;
    append(&mut first, rows(0..5), Some(1)).await.unwrap();
    assert_eq!(kind(append(&mut zombie, rows(5..9), Some(2)).await.unwrap_err()), "conflict");
    let reader = open(&format).await;
    assert_eq!((ids(reader.as_ref()).await, reader.number(APP).await.unwrap()), (vec![0, 1, 2, 3, 4], Some(1)));
    let done = first.maintain(&crate::removal::maintenance()).await.unwrap();
    assert_eq!(done.files_deleted, 0);
}

/// A server on this machine needs no leave for plain HTTP.
fn without_plain_http(env: Vec<(String, String)>) -> BTreeMap<String, String> {
    env.into_iter().filter(|(name, _)| !name.ends_with("ALLOW_HTTP")).collect()
}

#[tokio::test]
async fn a_lake_on_an_s3_stand_in() {
    let Some(server) = S3::shared().await else { return };
    let bucket = server.bucket().await;
    let options: BTreeMap<String, String> = without_plain_http(bucket.env());
    two_runs_share_a_table(DeltaFormat::open(&format!("{}/lake of ours", bucket.url()), &options).unwrap()).await;
}

#[tokio::test]
async fn a_lake_on_an_azure_stand_in() {
    let Some(server) = Azurite::shared().await else { return };
    let container = server.container().await;
    let options: BTreeMap<String, String> = without_plain_http(container.env());
    two_runs_share_a_table(DeltaFormat::open(&format!("{}/lake", container.url()), &options).unwrap()).await;
}

#[tokio::test]
async fn a_lake_on_a_google_cloud_storage_stand_in() {
    let Some(server) = GcsOverS3::start().await else { return };
    let options: BTreeMap<String, String> = server.env().into_iter().collect();
    two_runs_share_a_table(DeltaFormat::open(&format!("{}/lake", server.url()), &options).unwrap()).await;
}

#[test]
fn lakes_that_cannot_be_are_refused() {
    let none = BTreeMap::new();
    for url in ["ftp://host/lake", "http://host/lake", "s3://", "s3://a b/c"] {
        let error = DeltaFormat::open(url, &none).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{url}");
    }
    let wrong = BTreeMap::from([("regoin".to_string(), "eu-west-1".to_string())]);
    let error = DeltaFormat::open("s3://bucket/lake", &wrong).unwrap_err();
    assert!(error.to_string().contains("regoin"), "{error}");
}
