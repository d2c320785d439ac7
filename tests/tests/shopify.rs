//! Shopify from outside, against the stand-in of the test kit: what only the real service knows is not shown here.

use std::collections::BTreeSet;

use ingest_testkit::shopify::{CLIENT_ID, CLIENT_SECRET, Fault, ShopifyServer, State};
use ingest_testkit::stand_in::Api;
use serde_json::{Value, json};

use crate::against::{assert_table, run, run_and_kill};
use crate::cli::Project;
use crate::survive::chance;

const RUN: [&str; 5] = ["run", "--source", "shopify", "--progress", "off"];
const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;

const LISTS: [&str; 3] = ["orders", "products", "customers"];
const STREAMS: [&str; 6] = ["orders", "order_line_items", "transactions", "products", "product_variants", "customers"];

struct Lab {
    server: ShopifyServer,
    project: Project,
    seed: u64,
}

impl Lab {
    async fn new() -> Self {
        let server = ShopifyServer::start().await;
        // Behind the clock of this machine, so that time that passes at the server passes for the program.
        let now = server.state().now() - 60 * MINUTE;
        server.freeze(now);
        for list in LISTS {
            server.seed(list, 1_500, now - 60 * DAY, now - DAY);
        }
        let streams: Vec<String> = STREAMS.iter().map(|stream| format!("{stream}: {{}}")).collect();
        let configuration = format!(
            "lake: {{commit_interval: 0s}}\nsources:\n  shopify:\n    shop: acme\n    endpoint: {}\n    \
             client_id: {CLIENT_ID}\n    client_secret: ${{SECRET}}\n    defaults: {{write: merge}}\n    \
             streams: {{{}}}\n",
            server.url(),
            streams.join(", ")
        );
        let project = Project::new(&configuration).set("SECRET", CLIENT_SECRET);
        Self { server, project, seed: 0x2545_f491_4f6c_dd1d }
    }

    /// A run under refused and failed calls, and a token that ends in the middle.
    async fn run(&mut self) {
        self.server.faults([Fault::RateLimited, Fault::Status(503)]);
        self.server.before(3, |state| state.script().fault(Fault::Throttled));
        let late = chance(&mut self.seed, 8) as usize + 4;
        self.server.before(late, State::end_tokens);
        run(&self.project, &RUN).await;
        self.server.no_faults();
    }

    async fn kill(&mut self) {
        run_and_kill(&self.project, &RUN, self.server.http(), &mut self.seed, 14).await;
    }

    fn change(&self, round: usize) {
        for (list, label) in [("orders", "name"), ("products", "title"), ("customers", "firstName")] {
            let ids: Vec<String> = self.server.truth(list).into_keys().collect();
            for id in ids.iter().skip(round).step_by(37) {
                self.server.update(list, id, json!({label: format!("round {round}")}));
            }
            self.server.create(list, json!({"lineItems": [{"quantity": 1}], "variants": [{"sku": "new"}]}));
        }
        // What is deleted has no children: that theirs stay is documented.
        let parents: BTreeSet<String> = ["order_line_items", "transactions", "product_variants"]
            .iter()
            .flat_map(|stream| self.server.truth(stream).into_values())
            .filter_map(|row| row.get("orderId").or(row.get("productId")).and_then(Value::as_str).map(str::to_owned))
            .collect();
        for list in ["orders", "products"] {
            let ids: Vec<String> = self.server.truth(list).into_keys().filter(|id| !parents.contains(id)).collect();
            ids.iter().step_by(53).for_each(|id| self.server.delete(list, id));
        }
        self.server.advance(6 * MINUTE);
    }

    async fn assert_equal(&self, context: &str) {
        for stream in STREAMS {
            let table = format!("shopify/{stream}");
            assert_table(&self.project, &table, "id", &self.server.truth(stream), context).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_in_with_10000_rows_that_change_under_faults_and_kills_equals_the_lake_after_every_run() {
    let mut lab = Lab::new().await;
    let all: usize = STREAMS.iter().map(|stream| lab.server.truth(stream).len()).sum();
    assert!(all >= 10_000, "{all} rows");
    lab.kill().await;
    lab.run().await;
    lab.assert_equal("first load").await;
    for round in 1..=3 {
        lab.change(round);
        lab.kill().await;
        lab.run().await;
        lab.assert_equal(&format!("round {round}")).await;
    }
    for request in lab.server.http().requests() {
        assert!(!request.query.contains(CLIENT_SECRET) && !request.path.contains(CLIENT_SECRET), "{}", request.path);
    }
}
