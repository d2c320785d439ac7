//! Which files belong to a stream: globs, names that are left out, markers.

use globset::{GlobBuilder, GlobMatcher};

use crate::options::Format;

/// Which files are asked for, relative to the root.
#[derive(Debug, Clone)]
pub struct Patterns {
    globs: Vec<(String, GlobMatcher)>,
    /// What is left out of that.
    exclude: Vec<GlobMatcher>,
    only: Option<Format>,
    marker: Option<Marker>,
    /// The markers of the files are asked for, not the files.
    wants_markers: bool,
}

/// The name of a file beside another one that says that the other one is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// What comes before the name of the file, or the whole name where one marker serves a folder.
    before: String,
    /// What comes behind it; `None` = one marker for all files of a folder.
    after: Option<String>,
    /// Whether the name counts without its last ending.
    is_stem: bool,
}

impl Marker {
    /// Reads `{name}.done`, `{stem}.ctl` or `_SUCCESS`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no name of a marker; write e.g. {{name}}.done, {{stem}}.ctl or _SUCCESS");
        let (before, after, is_stem) = match (text.split_once("{name}"), text.split_once("{stem}")) {
            (Some((before, after)), None) => (before, Some(after), false),
            (None, Some((before, after))) => (before, Some(after), true),
            (None, None) => (text, None, false),
            _ => return Err(wrong()),
        };
        let is_name = !text.is_empty() && !text.contains('/') && text != "{name}";
        let is_whole = !format!("{before}{}", after.unwrap_or_default()).contains(['{', '}']);
        match is_name && is_whole {
            true => Ok(Self { before: before.to_owned(), after: after.map(str::to_owned), is_stem }),
            false => Err(wrong()),
        }
    }

    /// The path of the marker of a file.
    pub fn of(&self, path: &str) -> String {
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
        let slash = if folder.is_empty() { "" } else { "/" };
        let Some(after) = &self.after else { return format!("{folder}{slash}{}", self.before) };
        let name = if self.is_stem { name.rsplit_once('.').map_or(name, |(stem, _)| stem) } else { name };
        format!("{folder}{slash}{}{name}{after}", self.before)
    }

    /// Whether a path is that of a marker.
    fn is_marker(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        match &self.after {
            None => name == self.before,
            Some(after) => {
                name.len() > self.before.len() + after.len()
                    && name.starts_with(&self.before)
                    && name.ends_with(after.as_str())
            }
        }
    }
}

impl Patterns {
    /// Compiles globs.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn new(globs: &[String]) -> Result<Self, String> {
        let globs = globs.iter().map(|glob| compile(glob)).collect::<Result<_, _>>()?;
        Ok(Self { globs, exclude: Vec::new(), only: None, marker: None, wants_markers: false })
    }

    /// Leaves out what matches one of these globs.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn without(mut self, globs: &[String]) -> Result<Self, String> {
        for glob in globs {
            self.exclude.push(compile(glob)?.1);
        }
        Ok(self)
    }

    /// Takes only names whose ending tells this format.
    pub(crate) fn only(mut self, format: Format) -> Self {
        self.only = Some(format);
        self
    }

    /// Leaves the markers themselves out.
    pub(crate) fn marked(mut self, marker: Option<Marker>) -> Self {
        self.marker = marker;
        self
    }

    /// How the marker of a file is called, where files need one.
    pub(crate) fn marker(&self) -> Option<&Marker> {
        self.marker.as_ref()
    }

    /// The same folders, but the markers of files in place of the files.
    pub(crate) fn of_markers(&self) -> Self {
        Self { wants_markers: true, ..self.clone() }
    }

    /// Whether a file belongs here: a glob matches it, and no part that a wildcard stands for has the name of a file
    /// that is hidden or still being written.
    pub fn matches(&self, path: &str) -> bool {
        let is_marker = self.marker.as_ref().is_some_and(|marker| marker.is_marker(path));
        if self.wants_markers || is_marker {
            return self.wants_markers && is_marker;
        }
        self.only.is_none_or(|format| Format::of_name(path) == Some(format))
            && !self.exclude.iter().any(|glob| glob.is_match(path))
            && self.globs.iter().any(|(glob, matcher)| {
                let fixed = base(glob);
                matcher.is_match(path)
                    && (!has_wildcard(glob)
                        || path.get(fixed.len()..).is_some_and(|rest| !rest.split('/').any(is_unfinished)))
            })
    }

    /// The folders below which matches can lie, without those that lie in another one; `""` = the root.
    pub fn bases(&self) -> Vec<String> {
        let mut bases: Vec<String> = self.globs.iter().map(|(glob, _)| base(glob).to_owned()).collect();
        bases.sort();
        bases.dedup();
        let all = bases.clone();
        bases.retain(|b| !all.iter().any(|other| other != b && is_below(b, other)));
        bases
    }

    /// The paths themselves, where no glob has a wildcard.
    pub fn literals(&self) -> Option<Vec<String>> {
        let asked = |glob: &str| match &self.marker {
            Some(marker) if self.wants_markers => marker.of(glob),
            _ => glob.to_owned(),
        };
        self.globs.iter().map(|(glob, _)| (!has_wildcard(glob)).then(|| asked(glob))).collect()
    }

    /// How many folders below the root a match can lie; `None` = any number.
    pub fn depth(&self) -> Option<usize> {
        let depth = |glob: &str| (!glob.contains("**") && !glob.contains('{')).then(|| glob.matches('/').count());
        self.globs.iter().map(|(glob, _)| depth(glob)).try_fold(0, |deepest, d| d.map(|d| deepest.max(d)))
    }
}

fn compile(glob: &str) -> Result<(String, GlobMatcher), String> {
    let mut text = glob.trim_start_matches("./").to_owned();
    if text.ends_with('/') {
        text.push_str("**");
    }
    if text.is_empty() || text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(format!("\"{glob}\" is not a path below the root"));
    }
    let matcher = GlobBuilder::new(&text).literal_separator(true).build().map_err(|e| e.to_string())?;
    Ok((text, matcher.compile_matcher()))
}

fn has_wildcard(glob: &str) -> bool {
    glob.contains(['*', '?', '[', '{', '\\'])
}

/// The part of a glob before its first wildcard, up to and with the last `/`.
fn base(glob: &str) -> &str {
    let fixed = glob.find(['*', '?', '[', '{', '\\']).unwrap_or(glob.len());
    glob.get(..glob.get(..fixed).and_then(|head| head.rfind('/')).map_or(0, |slash| slash + 1)).unwrap_or("")
}

fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.starts_with(folder)
}

/// Whether a name is that of a hidden file or of one that is still being written.
pub(crate) fn is_unfinished(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name.starts_with(['.', '_', '~'])
        || name.ends_with('~')
        || [".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".swp", ".inprogress"]
            .iter()
            .any(|ending| lower.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(globs: &[&str]) -> Patterns {
        Patterns::new(&globs.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>()).expect("globs")
    }

    #[test]
    fn globs_match_whole_paths_and_pass_over_unfinished_names() {
        let orders = patterns(&["in/orders/*.csv"]);
        assert!(orders.matches("in/orders/1.csv"));
        for path in
            ["in/orders/a/1.csv", "in/orders/.1.csv", "in/orders/_1.csv", "in/orders/1.csv.part", "orders/1.csv"]
        {
            assert!(!orders.matches(path), "{path}");
        }
        assert!(patterns(&["in/**/*.csv"]).matches("in/a/b/1.csv"));
        assert!(!patterns(&["in/**/*.csv"]).matches("in/_temporary/1.csv"));
        assert!(patterns(&["_exports/*.csv"]).matches("_exports/1.csv"), "a part that was written out is wanted");
        assert!(patterns(&["{a,b}/[0-9].csv"]).matches("b/7.csv"));
    }

    #[test]
    fn bases_are_the_shortest_folders() {
        assert_eq!(patterns(&["in/orders/*.csv", "in/**"]).bases(), ["in/"]);
        assert_eq!(patterns(&["*.csv"]).bases(), [""]);
        assert_eq!(patterns(&["a/b.csv"]).literals(), Some(vec!["a/b.csv".to_owned()]));
        assert_eq!(patterns(&["a/*/b.csv"]).depth(), Some(2));
        assert_eq!(patterns(&["a/**/b.csv"]).depth(), None);
    }

    #[test]
    fn globs_that_leave_the_root_are_refused() {
        for glob in ["../x", "/etc/*", "", "a/../../b"] {
            assert!(Patterns::new(&[glob.to_owned()]).is_err(), "{glob}");
        }
    }

    #[test]
    fn markers_belong_to_files_and_are_none_themselves() {
        let of = |marker: &str, path: &str| Marker::new(marker).expect(marker).of(path);
        assert_eq!(of("{name}.done", "in/a.csv"), "in/a.csv.done");
        assert_eq!(of("{stem}.ctl", "a.csv"), "a.ctl");
        assert_eq!(of("_SUCCESS", "in/a.csv"), "in/_SUCCESS");
        for text in ["", "{name}", "a/{name}", "{name}{stem}", "{name}.{ext}"] {
            assert!(Marker::new(text).is_err(), "{text}");
        }
        let marked = patterns(&["in/*"]).marked(Some(Marker::new("{name}.done").expect("marker")));
        assert!(marked.matches("in/a.csv") && !marked.matches("in/a.csv.done"));
        let markers = marked.of_markers();
        assert!(markers.matches("in/a.csv.done") && !markers.matches("in/a.csv"));
        let literal = patterns(&["in/a.csv"]).marked(Some(Marker::new("{stem}.ok").expect("marker"))).of_markers();
        assert_eq!(literal.literals(), Some(vec!["in/a.ok".to_owned()]));
    }

    #[test]
    fn what_is_excluded_does_not_match() {
        let patterns = patterns(&["**/*.csv"]).without(&["old/".to_owned(), "**/test-*".to_owned()]).expect("globs");
        assert!(patterns.matches("new/a.csv"));
        assert!(!patterns.matches("old/a.csv") && !patterns.matches("new/test-1.csv"));
    }
}
