//! The lists of the stand-in: what their objects are called and which events tell of them.

/// A list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub path: &'static str,
    pub object: &'static str,
    pub prefix: &'static str,
    /// Event types when an object is made, changed, deleted; empty = none.
    pub created: &'static str,
    pub updated: &'static str,
    pub deleted: &'static str,
    /// The field with the time of creation.
    pub dated: &'static str,
    /// The field with a nested list, its path (`{}` = id), and the field of an entry that names its parent.
    pub nested: Option<(&'static str, &'static str, &'static str)>,
}

const fn kind(path: &'static str, object: &'static str, prefix: &'static str, events: [&'static str; 3]) -> Kind {
    let [created, updated, deleted] = events;
    Kind { path, object, prefix, created, updated, deleted, dated: "created", nested: None }
}

const fn with_nested(kind: Kind, field: &'static str, path: &'static str, parent: &'static str) -> Kind {
    Kind { nested: Some((field, path, parent)), ..kind }
}

pub(super) static KINDS: &[Kind] = &[
    kind("charges", "charge", "ch", ["charge.succeeded", "charge.updated", ""]),
    kind("customers", "customer", "cus", ["customer.created", "customer.updated", "customer.deleted"]),
    with_nested(
        kind(
            "subscriptions",
            "subscription",
            "sub",
            ["customer.subscription.created", "customer.subscription.updated", ""],
        ),
        "items",
        "subscription_items",
        "subscription",
    ),
    with_nested(
        kind("invoices", "invoice", "in", ["invoice.created", "invoice.updated", "invoice.deleted"]),
        "lines",
        "invoices/{}/lines",
        "invoice",
    ),
    Kind {
        dated: "date",
        ..kind("invoiceitems", "invoiceitem", "ii", ["invoiceitem.created", "", "invoiceitem.deleted"])
    },
    kind("payment_intents", "payment_intent", "pi", ["payment_intent.created", "payment_intent.succeeded", ""]),
    kind("setup_intents", "setup_intent", "seti", ["setup_intent.created", "setup_intent.succeeded", ""]),
    kind("refunds", "refund", "re", ["refund.created", "refund.updated", ""]),
    kind("balance_transactions", "balance_transaction", "txn", ["", "", ""]),
    kind("products", "product", "prod", ["product.created", "product.updated", "product.deleted"]),
    kind("prices", "price", "price", ["price.created", "price.updated", "price.deleted"]),
    kind("plans", "plan", "plan", ["plan.created", "plan.updated", "plan.deleted"]),
    kind("coupons", "coupon", "co", ["coupon.created", "coupon.updated", "coupon.deleted"]),
    kind("promotion_codes", "promotion_code", "promo", ["promotion_code.created", "promotion_code.updated", ""]),
    kind("disputes", "dispute", "du", ["charge.dispute.created", "charge.dispute.updated", ""]),
    kind("payouts", "payout", "po", ["payout.created", "payout.updated", ""]),
    with_nested(
        kind("transfers", "transfer", "tr", ["transfer.created", "transfer.reversed", ""]),
        "reversals",
        "transfers/{}/reversals",
        "transfer",
    ),
    kind("credit_notes", "credit_note", "cn", ["credit_note.created", "credit_note.updated", ""]),
    kind("checkout/sessions", "checkout.session", "cs", ["", "checkout.session.completed", ""]),
    kind(
        "subscription_schedules",
        "subscription_schedule",
        "sub_sched",
        ["subscription_schedule.created", "subscription_schedule.updated", ""],
    ),
    with_nested(
        kind("application_fees", "application_fee", "fee", ["application_fee.created", "application_fee.refunded", ""]),
        "refunds",
        "application_fees/{}/refunds",
        "fee",
    ),
    kind("payment_methods", "payment_method", "pm", ["payment_method.attached", "payment_method.updated", ""]),
    kind("events", "event", "evt", ["", "", ""]),
    kind("accounts", "account", "acct", ["", "", ""]),
    kind("topups", "topup", "tu", ["topup.created", "topup.succeeded", ""]),
    kind("reviews", "review", "prv", ["review.opened", "review.closed", ""]),
    kind(
        "radar/early_fraud_warnings",
        "radar.early_fraud_warning",
        "issfr",
        ["radar.early_fraud_warning.created", "radar.early_fraud_warning.updated", ""],
    ),
    kind(
        "issuing/authorizations",
        "issuing.authorization",
        "iauth",
        ["issuing_authorization.created", "issuing_authorization.updated", ""],
    ),
    kind(
        "issuing/cardholders",
        "issuing.cardholder",
        "ich",
        ["issuing_cardholder.created", "issuing_cardholder.updated", ""],
    ),
    kind("issuing/cards", "issuing.card", "ic", ["issuing_card.created", "issuing_card.updated", ""]),
    kind(
        "issuing/transactions",
        "issuing.transaction",
        "ipi",
        ["issuing_transaction.created", "issuing_transaction.updated", ""],
    ),
    kind("issuing/disputes", "issuing.dispute", "idp", ["issuing_dispute.created", "issuing_dispute.updated", ""]),
    kind("files", "file", "file", ["", "", ""]),
];

/// The list of a path.
pub(super) fn find(path: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.path == path)
}
