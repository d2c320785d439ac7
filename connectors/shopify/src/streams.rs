//! The table of streams: what is asked for, and which columns it becomes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use ingest_core::json::{FORMAT, SOURCE_NAME};
use ingest_core::{CLASS, CursorColumn, Error, Estimate, Mode, Result, Safety, Stream, StreamName};

/// How a field is asked for, and what it becomes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Int,
    Flag,
    Time,
    /// An amount in the shop's currency: a decimal as text.
    Money,
    /// An amount with its currency.
    Amount,
    /// An amount in the shop's currency and in the customer's.
    Bag,
    Texts,
    /// Another object, by its id.
    Ref,
    /// An object or list, as JSON text; with what is asked of it.
    Json(&'static str),
    /// The id of the object that this one belongs to.
    Parent,
}

/// A field, and whether it is about a person.
pub(crate) type FieldDef = (&'static str, Kind, bool);

/// Where the objects of a stream are found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// In a list of the shop, which a bulk operation reads: its name, further arguments, the field to filter by.
    List(&'static str, &'static str, &'static str),
    /// In a connection of another stream's objects: that stream, the connection.
    Child(&'static str, &'static str),
    /// In a list inside another stream's objects: that stream, the field.
    Inside(&'static str, &'static str),
    /// In a list of the shop that is read by pages, because no bulk operation can: as `List`; `""` = there is no filter.
    Pages(&'static str, &'static str, &'static str),
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Def {
    pub name: &'static str,
    pub origin: Origin,
    /// What `__typename` says of its objects.
    pub typename: &'static str,
    pub scope: &'static str,
    pub cursor: Option<&'static str>,
    pub fields: &'static [FieldDef],
    /// What events call its objects, where they say that one was deleted.
    pub deleted: Option<&'static str>,
}

use Kind::{Amount, Bag, Flag, Int, Json, Money, Parent, Ref, Text, Texts, Time};

const ADDRESS: &str = "{ name company address1 address2 city zip provinceCode countryCodeV2 phone }";

const ORDERS: &[FieldDef] = &[
    ("id", Text, false),
    ("legacyResourceId", Int, false),
    ("name", Text, false),
    ("email", Text, true),
    ("phone", Text, true),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
    ("processedAt", Time, false),
    ("closedAt", Time, false),
    ("cancelledAt", Time, false),
    ("cancelReason", Text, false),
    ("confirmed", Flag, false),
    ("test", Flag, false),
    ("currencyCode", Text, false),
    ("presentmentCurrencyCode", Text, false),
    ("displayFinancialStatus", Text, false),
    ("displayFulfillmentStatus", Text, false),
    ("subtotalPriceSet", Bag, false),
    ("totalPriceSet", Bag, false),
    ("totalTaxSet", Bag, false),
    ("totalDiscountsSet", Bag, false),
    ("totalShippingPriceSet", Bag, false),
    ("totalRefundedSet", Bag, false),
    ("currentTotalPriceSet", Bag, false),
    ("taxesIncluded", Flag, false),
    ("tags", Texts, false),
    ("note", Text, true),
    ("sourceName", Text, false),
    ("customerLocale", Text, false),
    ("clientIp", Text, true),
    ("customer", Ref, false),
    ("billingAddress", Json(ADDRESS), true),
    ("shippingAddress", Json(ADDRESS), true),
    ("discountCodes", Texts, false),
    ("paymentGatewayNames", Texts, false),
    ("poNumber", Text, false),
];

const LINE_ITEMS: &[FieldDef] = &[
    ("id", Text, false),
    ("orderId", Parent, false),
    ("title", Text, false),
    ("variantTitle", Text, false),
    ("sku", Text, false),
    ("vendor", Text, false),
    ("quantity", Int, false),
    ("currentQuantity", Int, false),
    ("originalUnitPriceSet", Bag, false),
    ("discountedTotalSet", Bag, false),
    ("totalDiscountSet", Bag, false),
    ("taxable", Flag, false),
    ("requiresShipping", Flag, false),
    ("isGiftCard", Flag, false),
    ("product", Ref, false),
    ("variant", Ref, false),
    ("customAttributes", Json("{ key value }"), true),
];

const TRANSACTIONS: &[FieldDef] = &[
    ("id", Text, false),
    ("orderId", Parent, false),
    ("kind", Text, false),
    ("status", Text, false),
    ("gateway", Text, false),
    ("amountSet", Bag, false),
    ("createdAt", Time, false),
    ("processedAt", Time, false),
    ("errorCode", Text, false),
    ("test", Flag, false),
    ("paymentId", Text, false),
    ("parentTransaction", Ref, false),
];

const REFUNDS: &[FieldDef] = &[
    ("id", Text, false),
    ("orderId", Parent, false),
    ("note", Text, true),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
    ("totalRefundedSet", Bag, false),
];

const FULFILLMENTS: &[FieldDef] = &[
    ("id", Text, false),
    ("orderId", Parent, false),
    ("name", Text, false),
    ("status", Text, false),
    ("displayStatus", Text, false),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
    ("deliveredAt", Time, false),
    ("totalQuantity", Int, false),
    ("location", Ref, false),
    ("trackingInfo", Json("{ company number url }"), true),
];

const CUSTOMERS: &[FieldDef] = &[
    ("id", Text, false),
    ("legacyResourceId", Int, false),
    ("firstName", Text, true),
    ("lastName", Text, true),
    ("displayName", Text, true),
    ("defaultEmailAddress", Json("{ emailAddress marketingState }"), true),
    ("defaultPhoneNumber", Json("{ phoneNumber marketingState }"), true),
    ("state", Text, false),
    ("verifiedEmail", Flag, false),
    ("taxExempt", Flag, false),
    ("tags", Texts, false),
    ("note", Text, true),
    ("locale", Text, false),
    ("numberOfOrders", Int, false),
    ("amountSpent", Amount, false),
    ("lastOrder", Ref, false),
    ("addresses", Json(ADDRESS), true),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
];

const PRODUCTS: &[FieldDef] = &[
    ("id", Text, false),
    ("legacyResourceId", Int, false),
    ("title", Text, false),
    ("handle", Text, false),
    ("descriptionHtml", Text, false),
    ("vendor", Text, false),
    ("productType", Text, false),
    ("status", Text, false),
    ("tags", Texts, false),
    ("totalInventory", Int, false),
    ("tracksInventory", Flag, false),
    ("isGiftCard", Flag, false),
    ("options", Json("{ id name position values }"), false),
    ("seo", Json("{ title description }"), false),
    ("templateSuffix", Text, false),
    ("publishedAt", Time, false),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
];

const VARIANTS: &[FieldDef] = &[
    ("id", Text, false),
    ("productId", Parent, false),
    ("legacyResourceId", Int, false),
    ("title", Text, false),
    ("sku", Text, false),
    ("barcode", Text, false),
    ("price", Money, false),
    ("compareAtPrice", Money, false),
    ("position", Int, false),
    ("inventoryQuantity", Int, false),
    ("inventoryPolicy", Text, false),
    ("inventoryItem", Ref, false),
    ("taxable", Flag, false),
    ("availableForSale", Flag, false),
    ("selectedOptions", Json("{ name value }"), false),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
];

const INVENTORY_ITEMS: &[FieldDef] = &[
    ("id", Text, false),
    ("legacyResourceId", Int, false),
    ("sku", Text, false),
    ("tracked", Flag, false),
    ("requiresShipping", Flag, false),
    ("unitCost", Amount, false),
    ("countryCodeOfOrigin", Text, false),
    ("harmonizedSystemCode", Text, false),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
];

const INVENTORY_LEVELS: &[FieldDef] = &[
    ("id", Text, false),
    ("inventoryItemId", Parent, false),
    ("location", Ref, false),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
    (
        "quantities",
        Json("(names: [\"available\", \"committed\", \"incoming\", \"on_hand\", \"reserved\"]) { name quantity }"),
        false,
    ),
];

const COLLECTIONS: &[FieldDef] = &[
    ("id", Text, false),
    ("legacyResourceId", Int, false),
    ("title", Text, false),
    ("handle", Text, false),
    ("descriptionHtml", Text, false),
    ("sortOrder", Text, false),
    ("templateSuffix", Text, false),
    ("ruleSet", Json("{ appliedDisjunctively rules { column relation condition } }"), false),
    ("updatedAt", Time, false),
];

const DRAFT_ORDERS: &[FieldDef] = &[
    ("id", Text, false),
    ("legacyResourceId", Int, false),
    ("name", Text, false),
    ("status", Text, false),
    ("email", Text, true),
    ("currencyCode", Text, false),
    ("subtotalPriceSet", Bag, false),
    ("totalPriceSet", Bag, false),
    ("totalTaxSet", Bag, false),
    ("taxesIncluded", Flag, false),
    ("tags", Texts, false),
    ("customer", Ref, false),
    ("order", Ref, false),
    ("billingAddress", Json(ADDRESS), true),
    ("shippingAddress", Json(ADDRESS), true),
    ("invoiceSentAt", Time, false),
    ("completedAt", Time, false),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
];

const DRAFT_LINE_ITEMS: &[FieldDef] = &[
    ("id", Text, false),
    ("draftOrderId", Parent, false),
    ("title", Text, false),
    ("sku", Text, false),
    ("quantity", Int, false),
    ("originalUnitPriceSet", Bag, false),
    ("discountedTotalSet", Bag, false),
    ("product", Ref, false),
    ("variant", Ref, false),
];

const DISCOUNT: &str = "{ __typename \
    ... on DiscountCodeBasic { title status startsAt endsAt createdAt updatedAt asyncUsageCount } \
    ... on DiscountCodeBxgy { title status startsAt endsAt createdAt updatedAt asyncUsageCount } \
    ... on DiscountCodeFreeShipping { title status startsAt endsAt createdAt updatedAt asyncUsageCount } \
    ... on DiscountAutomaticBasic { title status startsAt endsAt createdAt updatedAt asyncUsageCount } \
    ... on DiscountAutomaticBxgy { title status startsAt endsAt createdAt updatedAt asyncUsageCount } }";

const DISCOUNTS: &[FieldDef] = &[("id", Text, false), ("discount", Json(DISCOUNT), false)];

const EVENTS: &[FieldDef] = &[
    ("id", Text, false),
    ("action", Text, false),
    ("message", Text, true),
    ("createdAt", Time, false),
    ("subjectId", Text, false),
    ("subjectType", Text, false),
    ("appTitle", Text, false),
    ("attributeToApp", Flag, false),
    ("attributeToUser", Flag, false),
    ("criticalAlert", Flag, false),
];

const LOCATIONS: &[FieldDef] = &[
    ("id", Text, false),
    ("legacyResourceId", Int, false),
    ("name", Text, false),
    ("isActive", Flag, false),
    ("fulfillsOnlineOrders", Flag, false),
    ("address", Json("{ address1 address2 city zip provinceCode countryCode phone }"), false),
    ("createdAt", Time, false),
    ("updatedAt", Time, false),
];

macro_rules! def {
    ($name:literal, $origin:expr, $typename:literal, $scope:literal, $cursor:expr, $fields:ident, $deleted:expr) => {
        Def {
            name: $name,
            origin: $origin,
            typename: $typename,
            scope: $scope,
            cursor: $cursor,
            fields: $fields,
            deleted: $deleted,
        }
    };
}

const BY_UPDATE: &str = "sortKey: UPDATED_AT";
const UPDATED: Option<&str> = Some("updatedAt");

/// All streams.
pub(crate) static STREAMS: [Def; 16] = [
    def!(
        "orders",
        Origin::List("orders", BY_UPDATE, "updated_at"),
        "Order",
        "read_orders",
        UPDATED,
        ORDERS,
        Some("ORDER")
    ),
    def!("order_line_items", Origin::Child("orders", "lineItems"), "LineItem", "read_orders", None, LINE_ITEMS, None),
    def!(
        "transactions",
        Origin::Inside("orders", "transactions"),
        "OrderTransaction",
        "read_orders",
        None,
        TRANSACTIONS,
        None
    ),
    def!("refunds", Origin::Inside("orders", "refunds"), "Refund", "read_orders", None, REFUNDS, None),
    def!(
        "fulfillments",
        Origin::Inside("orders", "fulfillments"),
        "Fulfillment",
        "read_orders",
        None,
        FULFILLMENTS,
        None
    ),
    def!(
        "customers",
        Origin::List("customers", BY_UPDATE, "updated_at"),
        "Customer",
        "read_customers",
        UPDATED,
        CUSTOMERS,
        None
    ),
    def!(
        "products",
        Origin::List("products", BY_UPDATE, "updated_at"),
        "Product",
        "read_products",
        UPDATED,
        PRODUCTS,
        Some("PRODUCT")
    ),
    def!(
        "product_variants",
        Origin::Child("products", "variants"),
        "ProductVariant",
        "read_products",
        None,
        VARIANTS,
        None
    ),
    def!(
        "inventory_items",
        Origin::List("inventoryItems", "", "updated_at"),
        "InventoryItem",
        "read_inventory",
        UPDATED,
        INVENTORY_ITEMS,
        None
    ),
    def!(
        "inventory_levels",
        Origin::Child("inventory_items", "inventoryLevels"),
        "InventoryLevel",
        "read_inventory",
        None,
        INVENTORY_LEVELS,
        None
    ),
    def!(
        "collections",
        Origin::List("collections", BY_UPDATE, "updated_at"),
        "Collection",
        "read_products",
        UPDATED,
        COLLECTIONS,
        Some("COLLECTION")
    ),
    def!(
        "draft_orders",
        Origin::List("draftOrders", BY_UPDATE, "updated_at"),
        "DraftOrder",
        "read_draft_orders",
        UPDATED,
        DRAFT_ORDERS,
        None
    ),
    def!(
        "draft_order_line_items",
        Origin::Child("draft_orders", "lineItems"),
        "DraftOrderLineItem",
        "read_draft_orders",
        None,
        DRAFT_LINE_ITEMS,
        None
    ),
    def!(
        "discounts",
        Origin::List("discountNodes", "", "updated_at"),
        "DiscountNode",
        "read_discounts",
        None,
        DISCOUNTS,
        None
    ),
    def!(
        "events",
        Origin::Pages("events", "sortKey: CREATED_AT", "created_at"),
        "BasicEvent",
        "read_orders",
        Some("createdAt"),
        EVENTS,
        None
    ),
    def!(
        "locations",
        Origin::Pages("locations", "includeInactive: true, includeLegacy: true", ""),
        "Location",
        "read_locations",
        None,
        LOCATIONS,
        None
    ),
];

/// The definition of a stream.
pub(crate) fn find(name: &str) -> Result<&'static Def> {
    STREAMS.iter().find(|def| def.name == name).ok_or_else(|| {
        Error::config("there is no such stream").with("stream", name).hint("`ingest discover` lists the streams")
    })
}

impl Def {
    /// The stream whose list gives this one.
    pub fn root(&self) -> &'static str {
        match self.origin {
            Origin::List(..) | Origin::Pages(..) => self.name,
            Origin::Child(root, _) | Origin::Inside(root, _) => root,
        }
    }

    pub fn is_whole_each_time(&self) -> bool {
        matches!(self.origin, Origin::Pages(_, _, ""))
    }

    pub fn stream(&self, lag: Duration) -> Stream {
        let cursor = |column: &str| CursorColumn { column: column.to_owned(), safety: Safety::Lag(lag) };
        Stream {
            name: StreamName::from(self.name),
            schema: self.schema(),
            key: vec!["id".into()],
            modes: if self.is_whole_each_time() { vec![Mode::Full] } else { vec![Mode::Incremental, Mode::Full] },
            cursors: self.cursor.into_iter().map(cursor).collect(),
            group: Some(self.root().to_owned()),
            estimate: Estimate::default(),
        }
    }

    pub fn schema(&self) -> Arc<Schema> {
        let field = |(name, kind, personal): &FieldDef| {
            let mut metadata = HashMap::new();
            if *personal {
                metadata.insert(CLASS.to_owned(), "pii".to_owned());
            }
            match kind {
                Kind::Json(_) => drop(metadata.insert(FORMAT.to_owned(), "json".to_owned())),
                Kind::Parent => drop(metadata.insert(SOURCE_NAME.to_owned(), PARENT.to_owned())),
                _ => {}
            }
            Field::new(*name, data_type(*kind), *name != "id").with_metadata(metadata)
        };
        Arc::new(Schema::new(self.fields.iter().map(field).collect::<Vec<_>>()))
    }

    /// What is asked of an object.
    pub fn selection(&self) -> String {
        let mut text = String::from("__typename");
        for (name, kind, _) in self.fields {
            let inner = match kind {
                Kind::Parent => continue,
                // Only one kind of event says what it is about.
                _ if self.name == "events" && name.starts_with("subject") => continue,
                Kind::Amount => " { amount currencyCode }",
                Kind::Bag => " { shopMoney { amount currencyCode } presentmentMoney { amount currencyCode } }",
                Kind::Ref => " { id }",
                Kind::Json(inner) => *inner,
                _ => "",
            };
            text.push(' ');
            text.push_str(name);
            text.push_str(inner);
        }
        if self.name == "events" {
            text.push_str(" ... on BasicEvent { subjectId subjectType }");
        }
        text
    }
}

/// The key under which a line names the object that it belongs to.
pub(crate) const PARENT: &str = "__parentId";

fn data_type(kind: Kind) -> DataType {
    // Amounts of every currency, exactly; no currency has more than four decimals.
    let money = || DataType::Decimal128(38, 6);
    let amount = || {
        let fields = vec![Field::new("amount", money(), true), Field::new("currencyCode", DataType::Utf8, true)];
        DataType::Struct(Fields::from(fields))
    };
    match kind {
        Kind::Text | Kind::Json(_) | Kind::Parent => DataType::Utf8,
        Kind::Int => DataType::Int64,
        Kind::Flag => DataType::Boolean,
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Money => money(),
        Kind::Amount => amount(),
        Kind::Bag => {
            let fields = vec![Field::new("shopMoney", amount(), true), Field::new("presentmentMoney", amount(), true)];
            DataType::Struct(Fields::from(fields))
        }
        Kind::Texts => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
        Kind::Ref => DataType::Struct(Fields::from(vec![Field::new("id", DataType::Utf8, true)])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_has_its_list_its_key_and_its_cursor() {
        for def in &STREAMS {
            let root = find(def.root()).expect("a list");
            assert!(matches!(root.origin, Origin::List(..) | Origin::Pages(..)), "{}", def.name);
            let schema = def.schema();
            assert!(schema.field_with_name("id").is_ok_and(|id| !id.is_nullable()), "{}", def.name);
            assert!(def.cursor.is_none_or(|cursor| schema.field_with_name(cursor).is_ok()), "{}", def.name);
            ingest_core::json::Decoder::new(schema).expect(def.name);
            assert!(!def.selection().contains("orderId"), "what a line says by itself is not asked for");
        }
    }
}
