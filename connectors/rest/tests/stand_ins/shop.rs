//! Orders by offset, their lines by page number, events newest first behind the id of the last one.

use std::collections::BTreeMap;

use ingest_testkit::http::{Request, Response};
use serde_json::{Value, json};

use super::{Api, CANARY, number, refuse, rfc3339};

/// What is done to a shop.
pub type Change = fn(&mut Shop);

pub struct Order {
    pub modified: i64,
    pub status: String,
    pub deleted: bool,
    pub lines: usize,
    /// It is not shown before.
    pub visible: i64,
}

pub struct Shop {
    pub now: i64,
    pub orders: BTreeMap<i64, Order>,
    /// Id and time.
    pub events: Vec<(i64, i64)>,
    next: i64,
    /// Called after so many pages of orders: changes the list while it is read.
    pub disturb: Option<(usize, Change)>,
}

impl Shop {
    pub fn new(now: i64) -> Self {
        let mut shop = Self { now, orders: BTreeMap::new(), events: Vec::new(), next: 0, disturb: None };
        for n in 0..37 {
            shop.order(now - 86_400 * 40 + n * 86_400, (n % 8) as usize);
        }
        for n in 0..33 {
            shop.event(now - 4_000 + n * 10);
        }
        shop
    }

    pub fn order(&mut self, modified: i64, lines: usize) -> i64 {
        self.next += 1;
        let order = Order { modified, status: "open".into(), deleted: false, lines, visible: modified };
        self.orders.insert(self.next, order);
        self.next
    }

    pub fn event(&mut self, at: i64) {
        self.next += 1;
        self.events.push((self.next, at));
    }

    pub fn order_json(id: i64, order: &Order) -> Value {
        json!({"id": id, "status": order.status, "total": format!("{id}.50"), "customer": {"name": "Jane"},
            "deleted": order.deleted, "modified": order.modified})
    }

    pub fn line_json(line: usize) -> Value {
        json!({"line": line, "sku": format!("sku-{line}"), "quantity": 1, "price": "9.99"})
    }

    fn orders(&mut self, request: &Request) -> Response {
        if let Some((left, change)) = self.disturb.take() {
            if left == 0 {
                change(self);
            } else {
                self.disturb = Some((left - 1, change));
            }
        }
        let bound = |name: &str| number(request, name).map(|n| n as i64);
        let (from, to) = (bound("modified_from"), bound("modified_to"));
        let shown = |order: &Order| {
            order.visible <= self.now
                && from.is_none_or(|from| order.modified >= from)
                && to.is_none_or(|to| order.modified <= to)
        };
        let all: Vec<Value> =
            self.orders.iter().filter(|(_, o)| shown(o)).map(|(id, o)| Self::order_json(*id, o)).collect();
        let offset = number(request, "offset").unwrap_or(0);
        let size = number(request, "limit").unwrap_or(50).min(7);
        let items: Vec<&Value> = all.iter().skip(offset).take(size).collect();
        Response::json(json!({"data": {"items": items, "total": all.len()}}).to_string())
    }

    fn lines(&self, request: &Request, id: &str) -> Response {
        let Some(order) = id.parse().ok().and_then(|id: i64| self.orders.get(&id)) else {
            return refuse(404, r#"{"error":"no such order"}"#);
        };
        let (page, size) = (number(request, "page").unwrap_or(1), 3);
        let lines: Vec<Value> = (0..order.lines).skip((page - 1) * size).take(size).map(Self::line_json).collect();
        Response::json(json!({"lines": lines, "pages": order.lines.div_ceil(size)}).to_string())
    }

    fn events(&self, request: &Request) -> Response {
        let before = number(request, "before").map_or(i64::MAX, |id| id as i64);
        let size = number(request, "limit").unwrap_or(10).min(10);
        let mut all: Vec<_> = self.events.iter().filter(|(id, at)| *id < before && *at <= self.now).collect();
        all.reverse();
        let more = all.len() > size;
        let shown = all.into_iter().take(size).map(|(id, at)| json!({"id": id, "kind": "paid", "at": rfc3339(*at)}));
        Response::json(json!({"events": shown.collect::<Vec<_>>(), "has_more": more}).to_string())
    }
}

impl Api for Shop {
    fn now(&self) -> i64 {
        self.now
    }

    fn answer(&mut self, request: &Request) -> Response {
        if request.header("x-api-key") != Some(CANARY) {
            return Response::status(401);
        }
        let Some(path) = request.path.strip_prefix("/api/v2/") else { return Response::status(404) };
        match path {
            "orders" => self.orders(request),
            "events" => self.events(request),
            _ => match path.strip_prefix("orders/").and_then(|rest| rest.strip_suffix("/lines")) {
                Some(id) => self.lines(request, id),
                None => Response::status(404),
            },
        }
    }
}

/// An order that nobody changes.
pub fn order(modified: i64) -> Order {
    Order { modified, status: "open".into(), deleted: false, lines: 0, visible: modified }
}
