//! The README tells what the code does.

use ingest_core::{Connector, Mode, Selection};

use crate::harness::Lab;

/// The table of streams, made from the streams themselves. On a difference the test prints the table to paste.
#[tokio::test]
async fn the_readme_lists_every_stream_as_it_is() {
    let lab = Lab::start().await;
    let stripe = lab.open().await;
    let mut table = String::from("| stream | key | changes | personal columns |\n| --- | --- | --- | --- |\n");
    for stream in stripe.schema(&Selection::default()).await.unwrap() {
        let changes = match (stream.modes.contains(&Mode::Incremental), stream.cursors.is_empty()) {
            (true, true) => "events",
            (true, false) => "`created`",
            (false, _) => "full reads",
        };
        let personal = stream
            .schema
            .fields()
            .iter()
            .filter(|field| field.metadata().contains_key(ingest_core::CLASS))
            .map(|field| format!("`{}`", field.name()))
            .collect::<Vec<_>>();
        let personal = match personal.len() {
            0..=12 => personal.join(", "),
            n => format!("{}, and {} more", personal[..8].join(", "), n - 8),
        };
        let keys: Vec<_> = stream.key.iter().map(|key| format!("`{key}`")).collect();
        table.push_str(&format!("| `{}` | {} | {changes} | {personal} |\n", stream.name, keys.join(", ")));
    }
    let readme = include_str!("../README.md");
    assert!(readme.contains(&table), "the table of streams in README.md should be:\n{table}");
}
