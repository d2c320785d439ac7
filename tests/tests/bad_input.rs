//! What cannot be merged, masked or checked: an error with its place, and the table as before.

use serde_json::Value;

use crate::cli::Project;

const RUN: [&str; 5] = ["run", "--source", "files", "--progress", "off"];

fn project(options: &str, text: &str) -> Project {
    Project::new(&format!("sources:\n  files:\n    path: ./data\n    streams:\n      t: {options}\n"))
        .file("data/t.csv", text)
}

#[test]
fn a_source_that_changes_against_its_options_is_an_error_and_the_table_stays_as_it_was() {
    let people = "id,email,born,n\n1,a@b.c,2020-03-04,17\n2,d@e.f,2021-05-06,23\n";
    for (options, second, code, words) in [
        // A column of the key vanishes.
        (
            "{mode: full, write: merge, key: [id]}",
            "email,born,n\na@b.c,2020-03-04,17\n",
            2,
            "there is no column \"id\"",
        ),
        (
            "{mode: full, write: scd2, key: [id, n]}",
            "id,email,born\n1,a@b.c,2020-03-04\n",
            2,
            "there is no column \"n\"",
        ),
        ("{mode: full, write: insert, key: [id]}", "email\na@b.c\n", 2, "there is no column \"id\""),
        // A type changes under a mask.
        (
            "{mode: full, mask: {born: {generalize: year}}}",
            "id,email,born,n\n1,a@b.c,soon,17\n",
            2,
            "ingest.yaml:5: sources.files.streams.t.mask.born: the mask `generalize: year` cannot take column \"born\"",
        ),
        (
            "{mode: full, mask: {n: {generalize: 10}}}",
            "id,email,born,n\n1,a@b.c,2020-03-04,many\n",
            2,
            "ingest.yaml:5: sources.files.streams.t.mask.n: the mask `generalize: 10` cannot take column \"n\"",
        ),
        // A column that is masked, or checked, vanishes.
        (
            "{mode: full, mask: {email: redact}}",
            "id,born,n\n1,2020-03-04,17\n",
            2,
            "there is no column \"email\" to mask",
        ),
        (
            "{mode: full, checks: [{column: email, not_null: true}]}",
            "id,born,n\n1,2020-03-04,17\n",
            2,
            "ingest.yaml:5: sources.files.streams.t.checks.0.column: there is no column \"email\"",
        ),
    ] {
        let project = project(options, people);
        project.good(&RUN);
        let before = project.json(&["show", "files.t"]);
        let project = project.file("data/t.csv", second);
        let output = project.run(&RUN);
        assert_eq!(output.code, Some(code), "{options}: {output:?}");
        assert!(output.stderr.contains(words), "{options}: {words}: {output:?}");
        assert_eq!(project.json(&["show", "files.t"]), before, "{options}");
        // The repair is enough: nothing has to be cleaned up.
        project.file("data/t.csv", people).good(&RUN);
    }
}

#[test]
fn an_expression_that_explodes_is_a_plan_error_and_one_that_would_elsewhere_runs_in_linear_time() {
    let long = format!("id,text\n1,{}b\n2,aaa\n", "a".repeat(20_000));
    for regex in ["(a{1000}){1000}", "((((a{100}){100}){100}){100})", "\\w{100000}"] {
        let options = format!("{{checks: [{{column: text, regex: '{regex}'}}]}}");
        for verb in ["plan", "run", "check"] {
            let output = project(&options, &long).run(&[verb, "--source", "files"]);
            assert_eq!(output.code, Some(2), "{verb} {regex}: {output:?}");
            let said = output.stderr + &output.stdout;
            assert!(said.contains("ingest.yaml:5") && said.contains("the expression is too large"), "{regex}: {said}");
        }
    }
    // An engine that goes back tries 2^20000 ways here.
    let output = project("{checks: [{column: text, regex: '^(a+)+$', on_fail: quarantine}]}", &long);
    let output = output.good(&["run", "--source", "files", "--progress", "json"]);
    let last: Value = serde_json::from_str(output.stdout.lines().last().expect("events")).expect("JSON");
    assert_eq!((&last["rows_written"], &last["rows_quarantined"]), (&1.into(), &1.into()), "{last}");
}
