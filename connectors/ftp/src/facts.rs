//! What a line of a listing says: RFC 3659's facts, and the two common forms of `LIST`.

use chrono::NaiveDateTime;

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A link, or something else: only a question about it tells.
    Unknown,
    /// The folder itself, the one above it, or nothing that can be read.
    Other,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name within the folder.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size: Option<u64>,
    /// Modification time, microseconds UTC.
    pub modified: Option<i64>,
    /// What the server calls the file itself, whatever its names.
    pub unique: Option<String>,
}

/// Reads `type=file;size=1024;modify=20250131103000; name`.
pub fn of_facts(line: &str) -> Option<Entry> {
    let (facts, name) = line.split_once(' ')?;
    let mut entry = Entry { name: name.to_owned(), kind: Kind::Unknown, size: None, modified: None, unique: None };
    for fact in facts.split(';').filter(|fact| !fact.is_empty()) {
        let (key, value) = fact.split_once('=')?;
        match key.to_ascii_lowercase().as_str() {
            "type" => {
                entry.kind = match value.to_ascii_lowercase().as_str() {
                    "file" => Kind::File,
                    "dir" => Kind::Folder,
                    "cdir" | "pdir" => Kind::Other,
                    _ => Kind::Unknown,
                }
            }
            "size" => entry.size = value.parse().ok(),
            "modify" => entry.modified = time(value),
            "unique" => entry.unique = Some(value.to_owned()),
            _ => {}
        }
    }
    (!name.is_empty()).then_some(entry)
}

/// Reads a line as `ls -l` or as DOS writes it. Its time is passed over: it has no zone, and is written otherwise once it
/// is half a year old.
pub fn of_list(line: &str) -> Option<Entry> {
    let of = |name: &str, kind, size| {
        let is_name = !name.is_empty() && !matches!(name, "." | "..");
        is_name.then(|| Entry { name: name.to_owned(), kind, size, modified: None, unique: None })
    };
    match line.as_bytes().first()? {
        kind @ (b'-' | b'd' | b'l') => {
            // -rw-r--r--   1 owner    group        1024 Jan 31 10:30 a name
            let mut rest = line;
            let mut fields = Vec::with_capacity(8);
            for _ in 0..8 {
                rest = rest.trim_start_matches(' ');
                let (field, tail) = rest.split_once(' ')?;
                fields.push(field);
                rest = tail;
            }
            let size = fields.get(4)?.parse().ok();
            match kind {
                b'-' => of(rest, Kind::File, size),
                b'd' => of(rest, Kind::Folder, None),
                _ => of(rest.split_once(" -> ").map_or(rest, |(name, _)| name), Kind::Unknown, None),
            }
        }
        b'0'..=b'9' => {
            // 01-31-25  10:30AM                 1024 a name
            let mut rest = line;
            let mut fields = Vec::with_capacity(3);
            for _ in 0..3 {
                rest = rest.trim_start_matches(' ');
                let (field, tail) = rest.split_once(' ')?;
                fields.push(field);
                rest = tail;
            }
            let (date, what, name) = (fields.first()?, fields.get(2)?, rest.trim_start_matches(' '));
            if !date.contains(['-', '/', '.']) {
                return None;
            }
            match *what {
                "<DIR>" => of(name, Kind::Folder, None),
                "<JUNCTION>" | "<SYMLINK>" | "<SYMLINKD>" => of(name, Kind::Other, None),
                size => of(name, Kind::File, Some(size.replace([',', '.'], "").parse().ok()?)),
            }
        }
        _ => None,
    }
}

/// Reads `20250131103000` or `20250131103000.123`, which is in UTC.
pub fn time(text: &str) -> Option<i64> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.len() != 14 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = NaiveDateTime::parse_from_str(whole, "%Y%m%d%H%M%S").ok()?.and_utc().timestamp();
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read() {
        let entry = of_facts("Type=file;Size=1024;Modify=20250131103000.5;UNIQUE=8g1; a  b; c").expect("entry");
        assert_eq!((entry.name.as_str(), entry.kind, entry.size), ("a  b; c", Kind::File, Some(1024)));
        assert_eq!(entry.modified, Some(1_738_319_400_500_000));
        assert_eq!(entry.unique.as_deref(), Some("8g1"));
        assert_eq!(of_facts("type=cdir; .").map(|e| e.kind), Some(Kind::Other));
        assert_eq!(of_facts("type=OS.unix=slink:x; l").map(|e| e.kind), Some(Kind::Unknown));
        assert_eq!(of_facts("nothing"), None);
        assert_eq!(of_facts("type=file; "), None);
    }

    #[test]
    fn lines_of_ls_and_of_dos_are_read() {
        let of = |line: &str| of_list(line).map(|e| (e.name, e.kind, e.size));
        let unix = "-rw-r--r--    1 1001     100          1024 Jan 31 10:30  a name ";
        assert_eq!(of(unix), Some((" a name ".into(), Kind::File, Some(1024))));
        assert_eq!(of("drwxr-xr-x 2 o g 4096 Jan 31 2024 sub"), Some(("sub".into(), Kind::Folder, None)));
        assert_eq!(of("lrwxrwxrwx 1 o g 3 Jan 31 2024 l -> a"), Some(("l".into(), Kind::Unknown, None)));
        assert_eq!(of("01-31-25  10:30AM       1,024 a b.csv"), Some(("a b.csv".into(), Kind::File, Some(1024))));
        assert_eq!(of("01-31-25  10:30AM       <DIR>          sub"), Some(("sub".into(), Kind::Folder, None)));
        for line in ["total 12", "", "drwxr-xr-x 2 o g 4096 Jan 31 2024 ..", "-rw-r--r-- 1 o", "1 2 3 4"] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn times_are_utc_and_complete() {
        assert_eq!(time("19700101000001"), Some(1_000_000));
        assert_eq!(time("19700101000001.25"), Some(1_250_000));
        for text in ["1970010100000", "20250231000000", "x", ""] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
