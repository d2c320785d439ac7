//! CPU time from the bytes of a page to Arrow columns, against the cheapest pass over the same bytes.
//!
//! `cargo bench -p ingest-http --bench json`. The machine is shared, so the ways take turns and medians are shown.

mod pages_of;

use std::hint::black_box;
use std::time::Duration;

use ingest_core::json::{Decoder, PageShape};
use serde::de::IgnoredAny;

use pages_of::{OBJECTS_PER_PAGE, cpu_time, page, schema};

const PAGES: usize = 200;
const ROUNDS: usize = 9;

fn main() {
    let pages: Vec<String> = (0..PAGES).map(|n| page(n * OBJECTS_PER_PAGE, true)).collect();
    let bytes: usize = pages.iter().map(String::len).sum();
    let objects = PAGES * OBJECTS_PER_PAGE;
    let shape = PageShape::at("data").pick("has_more");
    let mut decoder = Decoder::new(schema()).expect("a decoder");
    let mut ways: [(&str, Vec<Duration>); 4] =
        [("syntax alone", vec![]), ("tree of values", vec![]), ("decoder, pages", vec![]), ("decoder, lines", vec![])];
    let lines: Vec<Vec<String>> = pages.iter().map(|page| pages_of::objects(page)).collect();
    for _ in 0..ROUNDS {
        ways[0].1.push(timed(|| {
            for page in &pages {
                black_box(serde_json::from_str::<IgnoredAny>(page).expect("JSON"));
            }
        }));
        ways[1].1.push(timed(|| {
            for page in &pages {
                black_box(serde_json::from_str::<serde_json::Value>(page).expect("JSON"));
            }
        }));
        ways[2].1.push(timed(|| {
            for page in &pages {
                decoder.page(page.as_bytes(), &shape).expect("a page");
                flush_when_full(&mut decoder);
            }
        }));
        ways[3].1.push(timed(|| {
            for line in lines.iter().flatten() {
                decoder.object(line.as_bytes()).expect("an object");
                flush_when_full(&mut decoder);
            }
        }));
    }
    println!("{objects} objects of {} bytes, {ROUNDS} rounds in turns, medians of CPU time", bytes / objects);
    let floor = median(&mut ways[0].1);
    for (name, times) in &mut ways {
        let time = median(times);
        let per_object = time.as_secs_f64() * 1e6 / objects as f64;
        println!(
            "{name:>16}: {per_object:5.2} us/object, {:4.2} of syntax alone",
            time.as_secs_f64() / floor.as_secs_f64()
        );
    }
}

fn flush_when_full(decoder: &mut Decoder) {
    if decoder.rows() >= 16_384 {
        black_box(decoder.flush().expect("a batch"));
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = cpu_time();
    work();
    cpu_time() - begun
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
