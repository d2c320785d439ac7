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
        // A type changes under a condition, and a column of it vanishes.
        (
            "{mode: full, checks: [{sql: \"n >= 0 and born > '2000-01-01'\"}]}",
            "id,email,born,n\n1,a@b.c,2020-03-04,many\n",
            2,
            "ingest.yaml:5: sources.files.streams.t.checks.0.sql: Utf8 cannot be compared with a number",
        ),
        (
            "{mode: full, checks: [{sql: n >= 0 or email is null}]}",
            "id,email,born\n1,a@b.c,2020-03-04\n",
            2,
            "ingest.yaml:5: sources.files.streams.t.checks.0.sql: there is no column \"n\" to check",
        ),
        // A key that shall be unique comes twice.
        (
            "{mode: full, write: merge, key: [id], checks: [{column: id, unique: true, on_fail: fail}]}",
            "id,email,born,n\n3,a@b.c,2020-03-04,17\n3,d@e.f,2021-05-06,23\n",
            5,
            "the check unique(id) failed",
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

#[test]
fn of_rows_with_a_key_that_is_not_unique_the_last_stays_and_verify_says_that_there_are_several() {
    let project = project("{mode: full, write: merge, key: [id]}", "id,email\n1,first\n2,other\n1,last\n");
    project.good(&RUN);
    let mut rows: Vec<String> = project
        .json(&["show", "files.t"])
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["email"].to_string())
        .collect();
    rows.sort();
    assert_eq!(rows, ["\"last\"", "\"other\""]);
    let receipt = project.json(&["verify", "--source", "files"]);
    let notes = receipt["streams"][0]["notes"].to_string();
    assert!(notes.contains("1 rows repeat a key"), "{receipt:#}");
}

#[test]
fn conditions_that_are_hostile_or_ask_too_much_are_plan_errors() {
    let nested = format!("{}n = 1{}", "(".repeat(3000), ")".repeat(3000));
    let chain = format!("n{} = 1", " + n".repeat(1500));
    let long = format!("n = 1{}", " or n = 1".repeat(100_000));
    for (condition, words) in [
        (nested.as_str(), "nested too deeply"),
        (chain.as_str(), "nested too deeply"),
        (long.as_str(), "bytes, and may have 8192"),
        ("n >", "cannot be read"),
        ("n > 0; drop table t", "goes on behind its end"),
        ("n in (select n from t)", "cannot ask another table"),
        ("sum(n) > 0", "sum is about several rows"),
        ("now() > '2020-01-01'", "now does not give the same answer each time"),
        ("n + 1", "takes true and false"),
        ("m > 0", "there is no column \"m\" to check"),
        ("n ~ '(a{1000}){1000}'", "too large"),
        ("'x' = 'x'", "names no column"),
    ] {
        let options = format!("{{checks: [{{sql: \"{condition}\", on_fail: fail}}]}}");
        for verb in ["plan", "run", "check"] {
            let output = project(&options, "id,n\n1,2\n").run(&[verb, "--source", "files"]);
            let said = output.stderr.clone() + &output.stdout;
            let shown = condition.chars().take(40).collect::<String>();
            assert_eq!(output.code, Some(2), "{verb}: {shown}: {said}");
            assert!(said.contains("ingest.yaml:5: sources.files.streams.t.checks.0.sql: "), "{verb}: {shown}: {said}");
            assert!(said.contains(words), "{verb}: {shown}: {words}: {said}");
        }
    }
}
