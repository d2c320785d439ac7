//! How fast the lines of a bulk operation become batches, on one core: MB of JSON a second.
//!
//! `cargo bench -p ingest-connector-shopify`; `ROWS=500000 ROUNDS=9` change the size.

use std::time::Instant;

use ingest_connector_shopify::decode_lines;

fn main() {
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rows, rounds) = (number("ROWS", 100_000), number("ROUNDS", 7));
    let mut text = String::new();
    for n in 0..rows {
        text.push_str(&format!(
            r#"{{"__typename":"Order","id":"gid://shopify/Order/{n}","name":"no. {n}","email":"c{n}@example.com","createdAt":"2024-01-02T03:04:05Z","updatedAt":"2024-01-02T03:04:05Z","processedAt":"2024-01-02T03:04:05Z","currencyCode":"EUR","displayFinancialStatus":"PAID","displayFulfillmentStatus":"FULFILLED","tags":["a","b"],"note":"Leave it at the door, please.","test":false,"totalPriceSet":{{"shopMoney":{{"amount":"{n}.50","currencyCode":"EUR"}},"presentmentMoney":{{"amount":"{n}.50","currencyCode":"EUR"}}}}}}"#
        ));
        text.push('\n');
        text.push_str(&format!(
            r#"{{"__typename":"LineItem","id":"gid://shopify/LineItem/{n}","name":"Shirt","quantity":2,"sku":"S-{n}","vendor":"Acme","__parentId":"gid://shopify/Order/{n}"}}"#
        ));
        text.push('\n');
    }
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let begun = Instant::now();
        assert_eq!(decode_lines(&["orders", "order_line_items"], text.as_bytes()).expect("rows"), 2 * rows);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    let megabytes = text.len() as f64 / 1e6;
    println!(
        "shopify, JSON lines of bulk operations: {:.0} MB/s per core ({} rows, {megabytes:.0} MB, best of {rounds})",
        megabytes / best,
        2 * rows
    );
}
