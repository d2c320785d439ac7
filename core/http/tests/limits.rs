//! Ceilings on what comes back.

use std::time::Duration;

use ingest_core::ErrorKind;
use ingest_http::Ceilings;
use ingest_testkit::http::{Chunk, HttpServer, Response};

use crate::{client, config, open};

/// The answer to a request under a page ceiling of 10,000 bytes and a ratio of 50.
async fn get(response: Response) -> ingest_core::Result<usize> {
    let server = HttpServer::start(move |_| {
        let response = response.clone();
        async move { response }
    })
    .await;
    let mut config = config(server.url());
    config.ceilings = Ceilings { page_bytes: 10_000, gzip_ratio: 50, ..Ceilings::default() };
    config.retry.attempts = 1;
    Ok(open(config).get("/x").send().await?.body().len())
}

fn pieces(sizes: &[usize]) -> Response {
    let chunk = |size: &usize| Chunk { delay: Duration::ZERO, bytes: vec![b' '; *size].into() };
    Response::json("").chunks(sizes.iter().map(chunk).collect())
}

#[tokio::test]
async fn pages_up_to_the_ceiling_are_taken_and_larger_ones_are_not() {
    let text = |bytes: usize| (0..bytes).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect::<String>();
    for good in [
        Response::json(text(10_000)),
        Response::json(text(10_000)).gzip(),
        pieces(&[1, 4_000, 5_999]),
        pieces(&[10_000]),
        pieces(&[]),
        Response::status(204),
    ] {
        get(good.clone()).await.unwrap_or_else(|error| panic!("{good:?}: {error:?}"));
    }
    for large in [
        Response::json(text(10_001)),
        Response::json(text(10_001)).gzip(),
        pieces(&[5_000, 5_001]),
        pieces(&[10_001]),
        Response::json("").gzip_bomb(10),
    ] {
        let error = get(large).await.expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    }
}

#[tokio::test]
async fn a_bomb_is_found_by_its_ratio_long_before_the_ceiling() {
    let server = HttpServer::start(|_| async { Response::json("").gzip_bomb(100) }).await;
    let mut config = config(server.url());
    config.ceilings.page_bytes = usize::MAX;
    let client = open(config);
    let error = client.get("/x").send().await.expect_err("a bomb");
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.to_string().contains("limit_ratio"), "{error}");
    let mut download = client.get("/x").download().await.expect("the head is good");
    let error = loop {
        match download.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a bomb was taken"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
}

#[tokio::test]
async fn packings_that_were_not_offered_are_refused() {
    for encoding in ["br", "gzip, gzip", "gzip,br", "deflate", "zstd"] {
        let error = get(Response::json("{}").header("content-encoding", encoding)).await.expect_err(encoding);
        assert_eq!(error.kind(), ErrorKind::DataInvalid, "{encoding}");
    }
    assert_eq!(get(Response::json("{}").header("content-encoding", "identity")).await.expect("plain"), 2);
}

#[tokio::test]
async fn a_download_comes_in_pieces_and_its_end_is_its_end() {
    let server = HttpServer::start(|request| async move {
        let whole = Response::status(200).header("content-type", "text/csv").body("a,b\n".repeat(50_000));
        match request.path.as_str() {
            "/plain" => whole,
            "/packed" => whole.gzip(),
            "/cut" => whole.content_length(300_000),
            _ => whole.gzip().cut(),
        }
    })
    .await;
    let client = client(server.url());
    for (path, length, want) in [
        ("/plain", Some(200_000), None),
        ("/packed", None, None),
        ("/cut", Some(300_000), Some(ErrorKind::Unavailable)),
        ("/packed-cut", None, Some(ErrorKind::Unavailable)),
    ] {
        let mut download = client.get(path).download().await.expect("a head");
        assert_eq!(download.length(), length, "{path}");
        let mut bytes = 0;
        let end = loop {
            match download.next().await {
                Ok(Some(piece)) => bytes += piece.len(),
                Ok(None) => break None,
                Err(error) => break Some(error.kind()),
            }
        };
        assert_eq!(end, want, "{path}");
        assert!(end.is_some() || bytes == 200_000, "{path}: {bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_that_trickles_or_falls_silent_is_given_up() {
    let slow = Response::status(200).body("x".repeat(100_000)).trickle(Duration::from_secs(1));
    let silent = Response::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    let still = Response::status(200).chunks(vec![
        Chunk { delay: Duration::ZERO, bytes: "abc".into() },
        Chunk { delay: Duration::from_secs(3_600), bytes: "abc".into() },
    ]);
    for (response, want) in [(slow, ErrorKind::Timeout), (silent, ErrorKind::Unavailable), (still, ErrorKind::Timeout)]
    {
        let server = HttpServer::start(move |_| {
            let response = response.clone();
            async move { response }
        })
        .await;
        let mut download = client(server.url()).get("/x").download().await.expect("a head");
        let error = loop {
            match download.next().await {
                Ok(piece) => assert!(piece.is_some(), "it ended as if it were whole"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), want, "{error:?}");
    }
}

#[tokio::test]
async fn a_web_page_is_data_only_where_anything_is() {
    let server = HttpServer::start(|_| async { Response::html("<html>") }).await;
    let client = client(server.url());
    assert_eq!(client.get("/x").send().await.expect_err("a web page").kind(), ErrorKind::DataInvalid);
    assert_eq!(client.get("/x").any_content().send().await.expect("anything").body().as_ref(), b"<html>");
}
