//! The table of streams: where each is listed, what names its rows, which events tell of its changes.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_core::json::FORMAT;
use ingest_core::{CLASS, CursorColumn, Estimate, Mode, Safety, Stream, StreamName};

use crate::objects as o;

/// The group of all streams that follow the event feed: they are planned together and share one feed per account.
pub(crate) const EVENTS_GROUP: &str = "events";

/// The column that names the connected account of a row; present only where accounts are configured.
pub(crate) const ACCOUNT_ID: &str = "account_id";

/// How the changes of a stream are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Every change makes an event.
    Events,
    /// Objects are only ever added: they are read by the time of their creation.
    Created,
    /// Not at all: the list is read whole each time.
    Unseen,
}

/// Where the objects of a stream come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A list of their own.
    List,
    /// The list under `field` of each object of another stream, which the events of that stream cover. `names` is the
    /// field of an entry that holds the id of its parent.
    Nested { parent: &'static str, field: &'static str, names: &'static str },
    /// A list per object of another stream; `{}` in the path stands for its id.
    Each { parent: &'static str, path: &'static str },
}

/// A list inside an object. It shows its first ten entries; the rest has a path of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nested {
    pub field: &'static str,
    /// `{}` stands for the id of the object.
    pub path: &'static str,
    /// The query parameter that carries the id of the object, where the path does not.
    pub parent: Option<&'static str>,
}

/// A stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Def {
    pub name: &'static str,
    /// Below `/v1/`: the list, and with `/{id}` one object.
    pub path: &'static str,
    pub query: &'static [(&'static str, &'static str)],
    pub origin: Origin,
    /// Columns that name a row, parted by blanks.
    key: &'static str,
    /// See [`crate::objects`].
    columns: &'static str,
    /// The field that the filter `created` and the order of the list go by.
    pub created: &'static str,
    pub changes: Changes,
    /// Event types after which the object is there: `charge.{failed,succeeded} …`.
    upserts: &'static str,
    /// Event types after which it is gone.
    deletes: &'static str,
    pub nested: &'static [Nested],
    /// Fields that are left out, because whoever has them can act on the object.
    pub secrets: &'static [&'static str],
    /// Belongs to the platform: `Stripe-Account` is not sent.
    pub platform: bool,
}

const BASE: Def = Def {
    name: "",
    path: "",
    query: &[],
    origin: Origin::List,
    key: "id",
    columns: "",
    created: "created",
    changes: Changes::Events,
    upserts: "",
    deletes: "",
    nested: &[],
    secrets: &["client_secret", "confirmation_secret"],
    platform: false,
};

const SUBSCRIPTION_EVENTS: &str = "customer.subscription.{created,updated,paused,resumed,pending_update_applied,\
    pending_update_expired,trial_will_end,deleted}";
// `invoice.upcoming` is left out: it tells of an invoice that does not exist yet and has no id.
const INVOICE_EVENTS: &str = "invoice.{created,updated,finalized,finalization_failed,marked_uncollectible,overdue,\
    overpaid,paid,payment_action_required,payment_attempt_required,payment_failed,payment_succeeded,sent,voided,\
    will_be_due}";
const FEE_EVENTS: &str = "application_fee.{created,refunded} application_fee.refund.updated";
const TRANSFER_EVENTS: &str = "transfer.{created,updated,reversed}";

/// All streams, in the order in which they are shown.
pub(crate) static STREAMS: &[Def] = &[
    Def {
        name: "charges",
        path: "charges",
        columns: o::CHARGE,
        upserts: "charge.{pending,succeeded,captured,updated,failed,refunded,expired}",
        nested: &[Nested { field: "refunds", path: "charges/{}/refunds", parent: None }],
        ..BASE
    },
    Def {
        name: "customers",
        path: "customers",
        columns: o::CUSTOMER,
        upserts: "customer.{created,updated}",
        deletes: "customer.deleted",
        ..BASE
    },
    Def {
        name: "subscriptions",
        path: "subscriptions",
        // Without it the list hides what is canceled.
        query: &[("status", "all")],
        columns: o::SUBSCRIPTION,
        // `deleted` is the end of a subscription, not of its row: it stays, as canceled.
        upserts: SUBSCRIPTION_EVENTS,
        nested: &[Nested { field: "items", path: "subscription_items", parent: Some("subscription") }],
        ..BASE
    },
    Def {
        name: "subscription_items",
        path: "subscription_items",
        origin: Origin::Nested { parent: "subscriptions", field: "items", names: "subscription" },
        columns: o::SUBSCRIPTION_ITEM,
        upserts: SUBSCRIPTION_EVENTS,
        ..BASE
    },
    Def {
        name: "invoices",
        path: "invoices",
        columns: o::INVOICE,
        upserts: INVOICE_EVENTS,
        deletes: "invoice.deleted",
        nested: &[Nested { field: "lines", path: "invoices/{}/lines", parent: None }],
        ..BASE
    },
    Def {
        name: "invoice_line_items",
        path: "invoices/{}/lines",
        origin: Origin::Nested { parent: "invoices", field: "lines", names: "invoice" },
        key: "id invoice",
        columns: o::LINE_ITEM,
        upserts: INVOICE_EVENTS,
        deletes: "invoice.deleted",
        ..BASE
    },
    Def {
        name: "invoice_items",
        path: "invoiceitems",
        columns: o::INVOICE_ITEM,
        created: "date",
        upserts: "invoiceitem.created",
        deletes: "invoiceitem.deleted",
        ..BASE
    },
    Def {
        name: "payment_intents",
        path: "payment_intents",
        columns: o::PAYMENT_INTENT,
        upserts: "payment_intent.{created,canceled,amount_capturable_updated,partially_funded,payment_failed,\
            processing,requires_action,succeeded}",
        ..BASE
    },
    Def {
        name: "setup_intents",
        path: "setup_intents",
        columns: o::SETUP_INTENT,
        upserts: "setup_intent.{created,canceled,requires_action,setup_failed,succeeded}",
        ..BASE
    },
    Def {
        name: "refunds",
        path: "refunds",
        columns: o::REFUND,
        upserts: "refund.{created,updated,failed} charge.refund.updated",
        ..BASE
    },
    Def {
        name: "balance_transactions",
        path: "balance_transactions",
        columns: o::BALANCE_TRANSACTION,
        changes: Changes::Created,
        ..BASE
    },
    Def {
        name: "products",
        path: "products",
        columns: o::PRODUCT,
        upserts: "product.{created,updated}",
        deletes: "product.deleted",
        ..BASE
    },
    Def {
        name: "prices",
        path: "prices",
        columns: o::PRICE,
        upserts: "price.{created,updated}",
        deletes: "price.deleted",
        ..BASE
    },
    Def {
        name: "plans",
        path: "plans",
        columns: o::PLAN,
        upserts: "plan.{created,updated}",
        deletes: "plan.deleted",
        ..BASE
    },
    Def {
        name: "coupons",
        path: "coupons",
        columns: o::COUPON,
        upserts: "coupon.{created,updated}",
        deletes: "coupon.deleted",
        ..BASE
    },
    Def {
        name: "promotion_codes",
        path: "promotion_codes",
        columns: o::PROMOTION_CODE,
        upserts: "promotion_code.{created,updated}",
        ..BASE
    },
    Def {
        name: "disputes",
        path: "disputes",
        columns: o::DISPUTE,
        upserts: "charge.dispute.{created,updated,closed,funds_reinstated,funds_withdrawn}",
        ..BASE
    },
    Def {
        name: "payouts",
        path: "payouts",
        columns: o::PAYOUT,
        upserts: "payout.{created,updated,canceled,failed,paid,reconciliation_completed}",
        ..BASE
    },
    Def {
        name: "transfers",
        path: "transfers",
        columns: o::TRANSFER,
        upserts: TRANSFER_EVENTS,
        nested: &[Nested { field: "reversals", path: "transfers/{}/reversals", parent: None }],
        ..BASE
    },
    Def {
        name: "transfer_reversals",
        path: "transfers/{}/reversals",
        origin: Origin::Nested { parent: "transfers", field: "reversals", names: "transfer" },
        columns: o::TRANSFER_REVERSAL,
        upserts: TRANSFER_EVENTS,
        ..BASE
    },
    Def {
        name: "credit_notes",
        path: "credit_notes",
        columns: o::CREDIT_NOTE,
        upserts: "credit_note.{created,updated,voided}",
        nested: &[Nested { field: "lines", path: "credit_notes/{}/lines", parent: None }],
        ..BASE
    },
    Def {
        name: "checkout_sessions",
        path: "checkout/sessions",
        columns: o::CHECKOUT_SESSION,
        upserts: "checkout.session.{completed,expired,async_payment_succeeded,async_payment_failed}",
        ..BASE
    },
    Def {
        name: "subscription_schedules",
        path: "subscription_schedules",
        columns: o::SUBSCRIPTION_SCHEDULE,
        upserts: "subscription_schedule.{created,updated,released,aborted,canceled,completed,expiring}",
        ..BASE
    },
    Def {
        name: "application_fees",
        path: "application_fees",
        columns: o::APPLICATION_FEE,
        upserts: FEE_EVENTS,
        nested: &[Nested { field: "refunds", path: "application_fees/{}/refunds", parent: None }],
        ..BASE
    },
    Def {
        name: "application_fee_refunds",
        path: "application_fees/{}/refunds",
        origin: Origin::Nested { parent: "application_fees", field: "refunds", names: "fee" },
        columns: o::FEE_REFUND,
        upserts: FEE_EVENTS,
        ..BASE
    },
    Def {
        name: "payment_methods",
        path: "payment_methods",
        origin: Origin::Each { parent: "customers", path: "customers/{}/payment_methods" },
        columns: o::PAYMENT_METHOD,
        upserts: "payment_method.{attached,automatically_updated,updated,detached}",
        ..BASE
    },
    Def { name: "events", path: "events", columns: o::EVENT, changes: Changes::Created, ..BASE },
    Def {
        name: "accounts",
        path: "accounts",
        columns: o::ACCOUNT,
        changes: Changes::Unseen,
        nested: &[Nested { field: "external_accounts", path: "accounts/{}/external_accounts", parent: None }],
        platform: true,
        ..BASE
    },
    Def {
        name: "topups",
        path: "topups",
        columns: o::TOPUP,
        upserts: "topup.{created,canceled,failed,reversed,succeeded}",
        ..BASE
    },
    Def { name: "reviews", path: "reviews", columns: o::REVIEW, upserts: "review.{opened,closed}", ..BASE },
    Def {
        name: "radar.early_fraud_warnings",
        path: "radar/early_fraud_warnings",
        columns: o::EARLY_FRAUD_WARNING,
        upserts: "radar.early_fraud_warning.{created,updated}",
        ..BASE
    },
    Def {
        name: "issuing.authorizations",
        path: "issuing/authorizations",
        columns: o::ISSUING_AUTHORIZATION,
        upserts: "issuing_authorization.{created,updated}",
        ..BASE
    },
    Def {
        name: "issuing.cardholders",
        path: "issuing/cardholders",
        columns: o::ISSUING_CARDHOLDER,
        upserts: "issuing_cardholder.{created,updated}",
        ..BASE
    },
    Def {
        name: "issuing.cards",
        path: "issuing/cards",
        columns: o::ISSUING_CARD,
        upserts: "issuing_card.{created,updated}",
        secrets: &["number", "cvc"],
        ..BASE
    },
    Def {
        name: "issuing.transactions",
        path: "issuing/transactions",
        columns: o::ISSUING_TRANSACTION,
        upserts: "issuing_transaction.{created,updated}",
        ..BASE
    },
    Def {
        name: "issuing.disputes",
        path: "issuing/disputes",
        columns: o::ISSUING_DISPUTE,
        upserts: "issuing_dispute.{created,updated,closed,submitted,funds_reinstated,funds_rescinded}",
        ..BASE
    },
    Def { name: "files", path: "files", columns: o::FILE, changes: Changes::Created, ..BASE },
];

/// The stream of a name.
pub(crate) fn find(name: &str) -> Option<&'static Def> {
    STREAMS.iter().find(|def| def.name == name)
}

/// What an event of a type says about the object of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub def: &'static Def,
    pub deleted: bool,
}

/// Event types and the streams of which they tell. A nested stream is told of by the events of its parent.
pub(crate) static TOLD: LazyLock<HashMap<String, Vec<Told>>> = LazyLock::new(|| {
    let mut told: HashMap<String, Vec<Told>> = HashMap::new();
    for def in STREAMS {
        for (types, deleted) in [(def.upserts, false), (def.deletes, true)] {
            for kind in expand(types) {
                told.entry(kind).or_default().push(Told { def, deleted });
            }
        }
    }
    told
});

/// `a.{b,c} d` is `a.b`, `a.c`, `d`.
fn expand(types: &str) -> Vec<String> {
    types
        .split_whitespace()
        .flat_map(|word| match word.split_once('{') {
            Some((family, rest)) => {
                rest.trim_end_matches('}').split(',').map(|last| format!("{family}{last}")).collect()
            }
            None => vec![word.to_owned()],
        })
        .collect()
}

impl Def {
    /// All event types that tell of the stream.
    pub fn event_types(&self) -> Vec<String> {
        let mut types = expand(self.upserts);
        types.extend(expand(self.deletes));
        types
    }

    /// The stream whose list gives the objects: the parent of nested ones and of those listed per parent.
    pub fn list(&'static self) -> &'static Def {
        match self.origin {
            Origin::List => self,
            Origin::Nested { parent, .. } | Origin::Each { parent, .. } => {
                find(parent).expect("the parents in the table are streams of the table (tested)")
            }
        }
    }

    /// The stream whose objects are read again after an event.
    pub fn reread(&'static self) -> &'static Def {
        match self.origin {
            Origin::Nested { .. } => self.list(),
            Origin::List | Origin::Each { .. } => self,
        }
    }

    /// Columns that name a row.
    pub fn key(&self, accounts: bool) -> Vec<String> {
        let own = self.key.split(' ').map(str::to_owned);
        own.chain((accounts && !self.platform).then(|| ACCOUNT_ID.to_owned())).collect()
    }

    /// The columns as the decoder fills them, without the account.
    pub fn columns(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.split_whitespace().map(field).collect::<Vec<_>>()))
    }

    /// All columns.
    pub fn schema(&self, accounts: bool) -> SchemaRef {
        let mut fields: Vec<_> = self.columns().fields().iter().cloned().collect();
        if accounts && !self.platform {
            fields.push(Arc::new(Field::new(ACCOUNT_ID, DataType::Utf8, true)));
        }
        Arc::new(Schema::new(fields))
    }

    /// The stream as `discover` shows it.
    pub fn stream(&self, accounts: bool, lag: Duration) -> Stream {
        let cursor = CursorColumn { column: self.created.to_owned(), safety: Safety::Lag(lag) };
        Stream {
            name: StreamName::from(self.name),
            schema: self.schema(accounts),
            key: self.key(accounts),
            modes: match self.changes {
                Changes::Events | Changes::Created => vec![Mode::Incremental, Mode::Full],
                Changes::Unseen => vec![Mode::Full],
            },
            cursors: if self.changes == Changes::Created { vec![cursor] } else { Vec::new() },
            group: (self.changes == Changes::Events).then(|| EVENTS_GROUP.to_owned()),
            estimate: Estimate::default(),
        }
    }
}

/// `name:kind/class`.
fn field(text: &str) -> Field {
    let (text, class) = text.split_once('/').map_or((text, None), |(text, class)| (text, Some(class)));
    let (name, kind) = text.split_once(':').unwrap_or((text, ""));
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let (data_type, format) = match kind {
        "ref" => (DataType::Utf8, Some("id")),
        "int" => (DataType::Int64, None),
        "dec" => (DataType::Decimal128(38, 12), None),
        "bool" => (DataType::Boolean, None),
        "time" => (micros, Some("unix_s")),
        "map" => (text_map(), None),
        "texts" => (DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))), None),
        "json" => (DataType::Utf8, Some("json")),
        _ => (DataType::Utf8, None),
    };
    let mut metadata = HashMap::new();
    if let Some(format) = format {
        metadata.insert(FORMAT.to_owned(), format.to_owned());
    }
    if let Some(class) = class {
        metadata.insert(CLASS.to_owned(), class.to_owned());
    }
    Field::new(name, data_type, true).with_metadata(metadata)
}

fn text_map() -> DataType {
    let key = Field::new("key", DataType::Utf8, false);
    let value = Field::new("value", DataType::Utf8, true);
    let entries = Field::new("entries", DataType::Struct(vec![key, value].into()), false);
    DataType::Map(Arc::new(entries), false)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_parents_exist() {
        let names: BTreeSet<_> = STREAMS.iter().map(|def| def.name).collect();
        assert_eq!(names.len(), STREAMS.len());
        for def in STREAMS {
            if let Origin::Nested { field, names, .. } = def.origin {
                assert!(def.schema(false).field_with_name(names).is_ok(), "{}", def.name);
                assert!(def.list().nested.iter().any(|nested| nested.field == field), "{}", def.name);
                assert_eq!(def.upserts, def.list().upserts, "{}", def.name);
                assert_eq!(def.deletes, def.list().deletes, "{}", def.name);
            }
            assert!(matches!(def.list().origin, Origin::List));
        }
    }

    #[test]
    fn every_column_has_a_known_kind_and_keys_are_columns() {
        for def in STREAMS {
            let mut seen = BTreeSet::new();
            for text in def.columns.split_whitespace() {
                let (text, class) = text.split_once('/').map_or((text, None), |(text, class)| (text, Some(class)));
                let (name, kind) = text.split_once(':').unwrap_or((text, ""));
                assert!(["", "ref", "int", "dec", "bool", "time", "map", "texts", "json"].contains(&kind), "{text}");
                assert!([None, Some("pii")].contains(&class), "{text}");
                assert!(seen.insert(name), "{}: {name} twice", def.name);
                assert!(!def.secrets.contains(&name), "{}: {name}", def.name);
            }
            let schema = def.schema(true);
            for column in def.key(true).iter().chain([&def.created.to_owned()]) {
                let nested = matches!(def.origin, Origin::Nested { .. });
                assert!(schema.field_with_name(column).is_ok() || nested, "{}: {column}", def.name);
            }
        }
    }

    #[test]
    fn event_types_are_told_to_streams() {
        let told = |kind: &str| -> Vec<_> { TOLD[kind].iter().map(|t| (t.def.name, t.deleted)).collect() };
        assert_eq!(told("customer.deleted"), [("customers", true)]);
        assert_eq!(
            told("customer.subscription.deleted"),
            [("subscriptions", false), ("subscription_items", false)],
            "the end of a subscription is no end of its row"
        );
        assert_eq!(told("invoice.deleted"), [("invoices", true), ("invoice_line_items", true)]);
        assert_eq!(told("charge.refund.updated"), [("refunds", false)]);
        for def in STREAMS {
            assert_eq!(def.changes == Changes::Events, !def.event_types().is_empty(), "{}", def.name);
        }
    }
}
