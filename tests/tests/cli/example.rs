//! `examples/shop` runs as it is.

use std::path::Path;

use super::Project;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        // Somebody may have run the example where it stands.
        if entry.file_name() == "lake" {
            continue;
        }
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn the_shop_is_loaded_whole_and_a_second_run_adds_nothing() {
    let project = Project::empty();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop"), project.folder.path());
    project.good(&["check", "--source", "shop"]);
    let rows = |table: &str| project.json(&["show", table, "--limit", "10000"]).as_array().expect("rows").clone();
    for run in 0..2 {
        let output = project.good(&["run", "--source", "shop"]);
        assert!(output.stdout.contains("shop.orders:") && !output.stderr.contains("warning"), "{output:?}");
        assert_eq!((rows("shop.customers").len(), rows("shop.products").len()), (250, 120), "run {run}");
    }
    let lines = rows("shop.orders");
    let text = std::fs::read_to_string(project.folder.path().join("data/orders.csv")).expect("there");
    // Money is exact: the sum of the cents is that of the file, refunds included.
    let cents = |text: &str| text.replace('.', "").parse::<i64>().expect("an amount");
    let sum: i64 = lines.iter().map(|line| cents(line["total"].as_str().expect("a decimal"))).sum();
    let first = |line: &&str| line.starts_with("SO-");
    // No field before the total holds a comma.
    let expected: i64 = text.lines().filter(first).map(|line| cents(line.split(',').nth(7).expect("a total"))).sum();
    assert_eq!((lines.len(), sum), (text.lines().filter(first).count(), expected));
    assert!(lines.iter().any(|line| line["total"].as_str().is_some_and(|total| total.starts_with('-'))), "refunds");
    let class = project.json(&["schema", "shop.customers"]);
    let email = class["columns"].as_array().expect("columns").iter().find(|column| column["name"] == "email");
    assert_eq!(email.expect("a column")["class"], "pii");
}
