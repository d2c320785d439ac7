//! One record of an XML document while it is read, and as the JSON object that a row is made of.
//!
//! | in the document | in the object |
//! | --- | --- |
//! | `<name>Ann</name>` | `"name": "Ann"` |
//! | `<line sku="a"><qty>2</qty></line>` | `"line": {"@sku": "a", "qty": "2"}` |
//! | `<price currency="EUR">5.00</price>` | `"price": {"@currency": "EUR", "#text": "5.00"}` |
//! | `<tag>a</tag><tag>b</tag>` | `"tag": ["a", "b"]` |
//! | `<note/>`, `<note xsi:nil="true"/>` | `"note": null` |

use std::collections::HashMap;
use std::ops::Range;

use ingest_core::Error;
use serde::Serialize;

/// Levels of elements in a record.
pub const DEPTH: usize = 100;

/// Distinct names in a document.
const NAMES: usize = 100_000;

/// What has no parent, child or sibling.
const NONE: u32 = u32::MAX;

/// The name of the texts of an element that has more than a text.
const TEXT: &str = "#text";

/// Something of the record: an element, an attribute, a text between elements.
struct Node {
    name: u32,
    first: u32,
    last: u32,
    /// The one behind it in its parent.
    next: u32,
    /// The next one of the same name in its parent.
    same: u32,
    /// Whether it is the first one of its name.
    leads: bool,
    is_nil: bool,
    text: Range<usize>,
}

/// A record; used again for the next one.
pub struct Tree {
    nodes: Vec<Node>,
    text: String,
    /// The text that is being read.
    pending: String,
    names: Names,
    /// The elements that are open, the record first.
    open: Vec<u32>,
    /// The last child of a name.
    latest: HashMap<(u32, u32), u32>,
}

/// The names of a document, each once.
#[derive(Default)]
struct Names {
    ids: HashMap<String, u32>,
    texts: Vec<String>,
}

impl Names {
    fn id(&mut self, name: &str) -> Result<u32, String> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = u32::try_from(self.texts.len()).ok().filter(|id| (*id as usize) < NAMES);
        let id = id.ok_or_else(|| format!("LimitExceeded: more than {NAMES} distinct names in the document"))?;
        self.ids.insert(name.to_owned(), id);
        self.texts.push(name.to_owned());
        Ok(id)
    }
}

impl Tree {
    /// Without a record.
    pub fn new() -> Self {
        let (nodes, text, pending) = (Vec::new(), String::new(), String::new());
        Self { nodes, text, pending, names: Names::default(), open: Vec::new(), latest: HashMap::new() }
    }

    /// Forgets the record, and large buffers with it.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.nodes.shrink_to(1 << 16);
        self.text.clear();
        self.text.shrink_to(4 << 20);
        self.pending.clear();
        self.pending.shrink_to(4 << 20);
        self.open.clear();
        self.latest.clear();
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        self.text.len() + self.pending.len() + self.nodes.len() * (size_of::<Node>() + 12)
    }

    /// An element begins; the first one is the record.
    ///
    /// # Errors
    /// Which ceiling was reached.
    pub fn start(&mut self, name: &str) -> Result<(), String> {
        self.end_text()?;
        if self.open.len() >= DEPTH {
            return Err(format!("LimitExceeded: more than {DEPTH} levels of elements"));
        }
        let node = self.add(name, 0..0)?;
        self.open.push(node);
        Ok(())
    }

    /// An attribute of the element that has just begun.
    ///
    /// # Errors
    /// As [`Tree::start`].
    pub fn attribute(&mut self, name: &str, value: &str) -> Result<(), String> {
        let from = self.text.len();
        self.text.push_str(value);
        self.add(name, from..self.text.len()).map(|_| ())
    }

    /// The element that is open has no value.
    pub fn nil(&mut self) {
        if let Some(node) = self.open.last().and_then(|node| self.nodes.get_mut(*node as usize)) {
            node.is_nil = true;
        }
    }

    /// Text of the element that is open.
    pub fn text(&mut self, text: &str) {
        self.pending.push_str(text);
    }

    /// The element that is open ends.
    ///
    /// # Errors
    /// As [`Tree::start`].
    pub fn end(&mut self) -> Result<(), String> {
        self.end_text()?;
        self.open.pop();
        Ok(())
    }

    /// White space around a text is not part of it.
    fn end_text(&mut self) -> Result<(), String> {
        let from = self.text.len();
        self.text.push_str(self.pending.trim());
        self.pending.clear();
        if self.text.len() > from {
            self.add(TEXT, from..self.text.len())?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, text: Range<usize>) -> Result<u32, String> {
        let name = self.names.id(name)?;
        let at = u32::try_from(self.nodes.len()).ok().filter(|at| *at < NONE);
        let at = at.ok_or_else(|| "LimitExceeded: too many elements in a record".to_owned())?;
        let mut leads = true;
        if let Some(parent) = self.open.last().copied() {
            if let Some(before) = self.latest.insert((parent, name), at) {
                leads = false;
                if let Some(before) = self.nodes.get_mut(before as usize) {
                    before.same = at;
                }
            }
            let last = self.nodes.get_mut(parent as usize).map_or(NONE, |parent| {
                if parent.first == NONE {
                    parent.first = at;
                }
                std::mem::replace(&mut parent.last, at)
            });
            if let Some(last) = self.nodes.get_mut(last as usize) {
                last.next = at;
            }
        }
        self.nodes.push(Node { name, first: NONE, last: NONE, next: NONE, same: NONE, leads, is_nil: false, text });
        Ok(at)
    }

    /// Writes the record as a JSON object. `nulls` are texts that stand for null; `lists` are elements, by their path in
    /// the record, that are lists also where there is one of them.
    ///
    /// # Errors
    /// None that depends on the record.
    pub fn write(&self, nulls: &[String], lists: &[Vec<String>], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut write = Write { tree: self, nulls, lists, path: Vec::new(), out };
        write.object(0)
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    fn name(&self, node: &Node) -> &str {
        self.names.texts.get(node.name as usize).map_or("", String::as_str)
    }

    /// The text of an element that is nothing but a text.
    fn plain<'a>(&'a self, node: &'a Node) -> Option<&'a str> {
        let text = match self.node(node.first) {
            None => node,
            Some(only) if node.first == node.last && self.name(only) == TEXT => only,
            Some(_) => return None,
        };
        self.text.get(text.text.clone())
    }
}

/// A record on its way to JSON. The depth of the record bounds that of the calls.
struct Write<'a> {
    tree: &'a Tree,
    nulls: &'a [String],
    lists: &'a [Vec<String>],
    path: Vec<&'a str>,
    out: &'a mut Vec<u8>,
}

impl<'a> Write<'a> {
    fn object(&mut self, at: u32) -> Result<(), Error> {
        self.out.push(b'{');
        let mut next = self.tree.node(at).map_or(NONE, |node| node.first);
        let mut is_first = true;
        while let Some(node) = self.tree.node(next) {
            if node.leads {
                if !std::mem::replace(&mut is_first, false) {
                    self.out.push(b',');
                }
                let name = self.tree.name(node);
                self.json(name)?;
                self.out.push(b':');
                self.path.push(name);
                self.all(next, node)?;
                self.path.pop();
            }
            next = node.next;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// All elements of a name: one value, or a list.
    fn all(&mut self, at: u32, node: &'a Node) -> Result<(), Error> {
        if node.same == NONE && !self.lists.iter().any(|list| *list == self.path) {
            return self.value(at, node);
        }
        self.out.push(b'[');
        self.value(at, node)?;
        let mut next = node.same;
        while let Some(node) = self.tree.node(next) {
            self.out.push(b',');
            self.value(next, node)?;
            next = node.same;
        }
        self.out.push(b']');
        Ok(())
    }

    fn value(&mut self, at: u32, node: &'a Node) -> Result<(), Error> {
        match self.tree.plain(node) {
            _ if node.is_nil => self.out.extend_from_slice(b"null"),
            Some(text) if self.nulls.iter().any(|null| null == text) => self.out.extend_from_slice(b"null"),
            Some(text) => self.json(text)?,
            None => self.object(at)?,
        }
        Ok(())
    }

    fn json(&mut self, text: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        let failed = |e| Error::unexpected("cannot write a text as JSON").caused_by(e);
        serde_json::to_writer(&mut *self.out, text).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(tree: &Tree, lists: &[&[&str]]) -> String {
        let lists: Vec<Vec<String>> = lists.iter().map(|l| l.iter().map(|s| (*s).to_owned()).collect()).collect();
        let mut out = Vec::new();
        tree.write(&[String::new()], &lists, &mut out).expect("JSON");
        String::from_utf8(out).expect("UTF-8")
    }

    fn leaf(tree: &mut Tree, name: &str, text: &str) {
        tree.start(name).expect("start");
        tree.text(text);
        tree.end().expect("end");
    }

    #[test]
    fn elements_attributes_and_texts_have_their_places() {
        let mut tree = Tree::new();
        tree.start("order").expect("record");
        tree.attribute("@id", "7").expect("attribute");
        leaf(&mut tree, "tag", " a\n");
        tree.start("price").expect("start");
        tree.attribute("@currency", "EUR").expect("attribute");
        tree.text("5.00");
        tree.end().expect("end");
        leaf(&mut tree, "tag", "b \"q\"");
        leaf(&mut tree, "note", "  ");
        tree.end().expect("end");
        let text = r##"{"@id":"7","tag":["a","b \"q\""],"price":{"@currency":"EUR","#text":"5.00"},"note":null}"##;
        assert_eq!(json(&tree, &[]), text);
        tree.clear();
        tree.start("order").expect("record");
        leaf(&mut tree, "tag", "a");
        tree.end().expect("end");
        assert_eq!(json(&tree, &[]), r#"{"tag":"a"}"#);
        assert_eq!(json(&tree, &[&["tag"]]), r#"{"tag":["a"]}"#);
    }

    #[test]
    fn depth_has_a_ceiling() {
        let mut tree = Tree::new();
        (0..DEPTH).for_each(|_| tree.start("a").expect("below the ceiling"));
        assert!(tree.start("a").expect_err("above").starts_with("LimitExceeded"));
    }
}
