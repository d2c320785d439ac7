//! What the suite found, for people and for programs.

use std::fmt;

use ingest_core::Json;
use serde_json::json;

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not hold, or could not be tried: what came.
    Failed(String),
    /// Left out, for this reason.
    Skipped(String),
    /// The connector does not claim what it is about.
    DoesNotApply(String),
}

impl Outcome {
    /// `passed`, `failed`, `skipped`, `does_not_apply`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
            Self::DoesNotApply(_) => "does_not_apply",
        }
    }

    /// What came, or why it was left out.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Failed(text) | Self::Skipped(text) | Self::DoesNotApply(text) => Some(text),
        }
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `R06`.
    pub id: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// What the contract says about it.
    pub contract: &'static str,
    /// Whether it does.
    pub outcome: Outcome,
    /// Of a failure: the last call that was made.
    pub sent: Option<String>,
}

/// What the suite found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The connector.
    pub connector: String,
    /// What it was tested against.
    pub counterpart: Option<String>,
    /// All checks, in their order.
    pub lines: Vec<Line>,
}

/// Set by who wants `docs/connectors.md` written anew.
const WRITE_DOCS: &str = "INGEST_TEST_WRITE_DOCS";

impl Report {
    /// The checks that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        self.lines.iter().filter(|line| matches!(line.outcome, Outcome::Failed(_))).map(|line| line.id).collect()
    }

    /// How a check ended.
    pub fn outcome(&self, id: &str) -> Option<&Outcome> {
        self.lines.iter().find(|line| line.id == id).map(|line| &line.outcome)
    }

    /// How many checks passed, failed, were skipped, do not apply.
    pub fn counts(&self) -> [usize; 4] {
        ["passed", "failed", "skipped", "does_not_apply"]
            .map(|word| self.lines.iter().filter(|line| line.outcome.word() == word).count())
    }

    /// Prints the report.
    ///
    /// # Panics
    /// When a check failed.
    pub fn assert_passed(&self) {
        println!("{self}");
        assert!(self.failed().is_empty(), "{} does not conform:\n{self}", self.connector);
    }

    /// As [`Report::assert_passed`], and sees to it that a Markdown page tells the same of this connector: its row in the
    /// page's table of connectors. With `INGEST_TEST_WRITE_DOCS` set the row is written.
    ///
    /// # Panics
    /// When a check failed; when the page tells something else, or cannot be read or written.
    pub fn assert_documented(&self, page: impl AsRef<std::path::Path>) {
        self.assert_passed();
        let page = page.as_ref();
        let text = std::fs::read_to_string(page).unwrap_or_else(|e| panic!("cannot read {}: {e}", page.display()));
        let row = self.markdown_row();
        if text.lines().any(|line| line == row) {
            return;
        }
        if std::env::var_os(WRITE_DOCS).is_some() {
            let written = with_row(&text, &row);
            return std::fs::write(page, written).unwrap_or_else(|e| panic!("cannot write {}: {e}", page.display()));
        }
        panic!("{} is out of step: run this test with {WRITE_DOCS}=1. The row should be\n{row}", page.display());
    }

    /// One row of a Markdown table: connector, counterpart, how many checks passed, what was skipped and why, what does
    /// not apply and why.
    pub fn markdown_row(&self) -> String {
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let list = |word: &str| {
            let lines = self.lines.iter().filter(|line| line.outcome.word() == word);
            let items: Vec<String> =
                lines.map(|line| format!("{}: {}", line.id, cell(line.outcome.text().unwrap_or_default()))).collect();
            if items.is_empty() { "none".to_owned() } else { items.join("<br>") }
        };
        format!(
            "| `{}` | {} | {} | {} | {} |",
            self.connector,
            cell(self.counterpart.as_deref().unwrap_or("not named")),
            self.counts()[0],
            list("skipped"),
            list("does_not_apply")
        )
    }

    /// The report as JSON.
    pub fn to_json(&self) -> Json {
        let [passed, failed, skipped, does_not_apply] = self.counts();
        let checks: Vec<Json> = self
            .lines
            .iter()
            .map(|line| {
                let mut check = json!({
                    "id": line.id, "title": line.title, "contract": line.contract, "outcome": line.outcome.word(),
                });
                match &line.outcome {
                    Outcome::Passed => {}
                    Outcome::Failed(came) => {
                        check["sent"] = json!(line.sent);
                        check["came"] = json!(came);
                    }
                    Outcome::Skipped(reason) | Outcome::DoesNotApply(reason) => check["reason"] = json!(reason),
                }
                check
            })
            .collect();
        json!({
            "connector": self.connector, "counterpart": self.counterpart, "passed": passed, "failed": failed,
            "skipped": skipped, "does_not_apply": does_not_apply, "checks": checks,
        })
    }

    /// The report as a JUnit test suite, which most build servers can show.
    pub fn to_junit(&self) -> String {
        let [passed, failed, skipped, does_not_apply] = self.counts();
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        out.push_str(&format!(
            "<testsuite name=\"conformance of {}\" tests=\"{}\" failures=\"{failed}\" skipped=\"{}\">\n",
            xml(&self.connector),
            passed + failed + skipped + does_not_apply,
            skipped + does_not_apply,
        ));
        for line in &self.lines {
            let name = xml(&format!("{} {}", line.id, line.title));
            let class = xml(&self.connector);
            out.push_str(&format!("  <testcase classname=\"{class}\" name=\"{name}\""));
            match &line.outcome {
                Outcome::Passed => out.push_str("/>\n"),
                Outcome::Failed(came) => {
                    let text = format!(
                        "sent: {}\ncame: {came}\ncontract: {}",
                        line.sent.as_deref().unwrap_or("nothing"),
                        line.contract
                    );
                    let first = came.lines().next().unwrap_or_default();
                    out.push_str(&format!(
                        "><failure message=\"{}\">{}</failure></testcase>\n",
                        xml(first),
                        xml(&text)
                    ));
                }
                Outcome::Skipped(reason) | Outcome::DoesNotApply(reason) => {
                    out.push_str(&format!("><skipped message=\"{}\"/></testcase>\n", xml(reason)));
                }
            }
        }
        out.push_str("</testsuite>\n");
        out
    }
}

/// The page with this row in the place of the connector's old one, or in its place by name.
fn with_row(page: &str, row: &str) -> String {
    let name = |line: &str| line.strip_prefix("| `").and_then(|rest| rest.split('`').next()).map(str::to_owned);
    let ours = name(row);
    let mut lines: Vec<&str> = page.lines().filter(|line| name(line) != ours).collect();
    let first = lines.iter().position(|line| name(line).is_some());
    let rule = lines.iter().position(|line| line.starts_with("| ---")).map_or(lines.len(), |at| at + 1);
    let start = first.unwrap_or(rule);
    let rows = lines[start..].iter().take_while(|line| name(line).is_some_and(|other| Some(other) < ours)).count();
    lines.insert(start + rows, row);
    lines.join("\n") + "\n"
}

/// A text for an attribute or a body of XML. Characters that XML cannot hold are shown as a question mark.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of {}", self.connector)?;
        for line in &self.lines {
            write!(f, "{line}")?;
        }
        let [passed, failed, skipped, does_not_apply] = self.counts();
        write!(f, "  {passed} passed, {failed} failed, {skipped} skipped, {does_not_apply} do not apply")
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, title, contract, outcome, sent } = self;
        match outcome {
            Outcome::Passed => writeln!(f, "  ok      {id} {title}"),
            Outcome::Failed(came) => {
                writeln!(f, "  FAILED  {id} {title}")?;
                if let Some(sent) = sent {
                    writeln!(f, "            sent:     {sent}")?;
                }
                writeln!(f, "            came:     {}", came.replace('\n', "\n                      "))?;
                writeln!(f, "            contract: {contract}")
            }
            Outcome::Skipped(why) => writeln!(f, "  skipped {id} {title}: {why}"),
            Outcome::DoesNotApply(why) => writeln!(f, "  -       {id} {title}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let line = |id, outcome| Line { id, title: "a <title>", contract: "it holds", outcome, sent: None };
        Report {
            connector: "acme".into(),
            counterpart: None,
            lines: vec![
                line("A01", Outcome::Passed),
                line("A02", Outcome::Failed("a \"fault\" & \u{1b}[31m".into())),
                line("A03", Outcome::Skipped("a | b".into())),
            ],
        }
    }

    #[test]
    fn the_documentation_lists_every_check() {
        const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md");
        let page = std::fs::read_to_string(PAGE).expect("docs/connectors.md");
        let mut table = String::from("| check | what must hold | what the contract says |\n| --- | --- | --- |\n");
        for (id, title, contract) in crate::checks() {
            table.push_str(&format!("| {id} | {title} | {contract} |\n"));
        }
        let (start, end) = ("<!-- generated: checks -->\n", "<!-- end -->");
        let (before, rest) = page.split_once(start).expect("the mark of the table");
        let (_, after) = rest.split_once(end).expect("the end of the table");
        let expected = format!("{before}{start}{table}{end}{after}");
        if std::env::var_os(WRITE_DOCS).is_some() {
            std::fs::write(PAGE, &expected).expect("written");
        } else {
            assert!(page == expected, "docs/connectors.md is out of step: run this test with {WRITE_DOCS}=1");
        }
    }

    #[test]
    fn junit_holds_every_check_and_no_character_that_xml_forbids() {
        let text = report().to_junit();
        assert!(text.contains("tests=\"3\" failures=\"1\" skipped=\"1\""), "{text}");
        assert!(text.contains("a &quot;fault&quot; &amp; ?[31m") && text.contains("A01 a &lt;title&gt;"), "{text}");
    }

    #[test]
    fn a_row_takes_the_place_of_the_old_one_and_stands_by_its_name() {
        let row = report().markdown_row();
        assert_eq!(row, "| `acme` | not named | 1 | A03: a \\| b | none |");
        let page = "# Page\n\n| a | b |\n| --- | --- |\n| `abc` | 1 |\n| `acme` | old |\n| `zoo` | 2 |\n\nend\n";
        let expected = format!("# Page\n\n| a | b |\n| --- | --- |\n| `abc` | 1 |\n{row}\n| `zoo` | 2 |\n\nend\n");
        assert_eq!(with_row(page, &row), expected);
        let empty = "| a | b |\n| --- | --- |\n\nend\n";
        assert_eq!(with_row(empty, &row), format!("| a | b |\n| --- | --- |\n{row}\n\nend\n"));
    }
}
