//! The fields of Stripe's objects, in the shape of API version `2026-10-28.endive`.
//!
//! One text per object: `name`, `name:kind`, `name:kind/class`, separated by blanks. Without a kind a field is text.
//!
//! | kind | Stripe sends | column |
//! | --- | --- | --- |
//! | (none) | text | Utf8 |
//! | `ref` | the id of another object, or that object where it is expanded | Utf8: the id |
//! | `int` | whole number; money is in the smallest unit of its currency | Int64 |
//! | `dec` | decimal number, as a number or as text | Decimal128(38, 12) |
//! | `bool` | true or false | Boolean |
//! | `time` | seconds since 1970 | Timestamp(µs, UTC) |
//! | `map` | keys and values given by the user | Map(Utf8, Utf8) |
//! | `texts` | list of texts | List(Utf8) |
//! | `json` | object or list | Utf8: the JSON text |
//!
//! Fields that hold a secret by which one can act on the object (`client_secret`) are no columns and never leave the
//! connector. Fields of older API versions are not listed: where they occur, they are in `_ingest_rescued`.

pub(crate) const CHARGE: &str = "id object amount:int amount_captured:int amount_refunded:int application:ref \
    application_fee:ref application_fee_amount:int balance_transaction:ref billing_details:json/pii \
    calculated_statement_descriptor captured:bool created:time currency customer:ref description/pii disputed:bool \
    failure_balance_transaction:ref failure_code failure_message fraud_details:json level3:json livemode:bool \
    metadata:map/pii on_behalf_of:ref outcome:json paid:bool payment_intent:ref payment_method:ref \
    payment_method_details:json/pii presentment_details:json radar_options:json receipt_email/pii receipt_number \
    receipt_url/pii refunded:bool refunds:json review:ref shipping:json/pii source:json/pii source_transfer:ref \
    statement_descriptor statement_descriptor_suffix status transfer:ref transfer_data:json transfer_group";

pub(crate) const CUSTOMER: &str = "id object address:json/pii balance:int business_name/pii cash_balance:json \
    created:time currency customer_account default_source:ref delinquent:bool description/pii discount:json email/pii \
    individual_name/pii invoice_credit_balance:json invoice_prefix invoice_settings:json livemode:bool metadata:map/pii \
    name/pii next_invoice_sequence:int phone/pii preferred_locales:texts shipping:json/pii sources:json/pii \
    subscriptions:json tax:json/pii tax_exempt tax_ids:json/pii test_clock:ref";

pub(crate) const SUBSCRIPTION: &str = "id object application:ref application_fee_percent:dec automatic_tax:json \
    billing_cycle_anchor:time billing_cycle_anchor_config:json billing_mode:json billing_schedules:json \
    billing_thresholds:json cancel_at:time cancel_at_period_end:bool canceled_at:time cancellation_details:json/pii \
    collection_method created:time currency customer:ref customer_account days_until_due:int \
    default_payment_method:ref default_source:ref default_tax_rates:json description/pii discounts:json ended_at:time \
    invoice_settings:json items:json latest_invoice:ref livemode:bool managed_payments:json metadata:map/pii \
    next_pending_invoice_item_invoice:time on_behalf_of:ref pause_collection:json payment_settings:json \
    pending_invoice_item_interval:json pending_setup_intent:ref pending_update:json presentment_details:json \
    schedule:ref start_date:time status test_clock:ref transfer_data:json trial_end:time trial_settings:json \
    trial_start:time";

pub(crate) const SUBSCRIPTION_ITEM: &str = "id object subscription:ref billed_until:time billing_thresholds:json \
    created:time current_period_end:time current_period_start:time discounts:json metadata:map/pii plan:json \
    price:json quantity:int tax_rates:json";

pub(crate) const INVOICE: &str = "id object account_country account_name account_tax_ids:json amount_due:int \
    amount_overpaid:int amount_paid:int amount_paid_off_stripe:int amount_remaining:int amount_shipping:int \
    application:ref attempt_count:int attempted:bool auto_advance:bool automatic_tax:json \
    automatically_finalizes_at:time billing_reason collection_method created:time currency custom_fields:json/pii \
    customer:ref customer_account customer_address:json/pii customer_email/pii customer_name/pii customer_phone/pii \
    customer_shipping:json/pii customer_tax_exempt customer_tax_ids:json/pii default_payment_method:ref \
    default_source:ref default_tax_rates:json description/pii discounts:json due_date:time effective_at:time \
    ending_balance:int footer from_invoice:json hosted_invoice_url/pii invoice_pdf/pii issuer:json \
    last_finalization_error:json/pii latest_revision:ref lines:json livemode:bool metadata:map/pii \
    next_payment_attempt:time number on_behalf_of:ref parent:json payment_settings:json payments:json period_end:time \
    period_start:time post_payment_credit_notes_amount:int pre_payment_credit_notes_amount:int receipt_number \
    rendering:json shipping_cost:json shipping_details:json/pii starting_balance:int statement_descriptor status \
    status_transitions:json subtotal:int subtotal_excluding_tax:int test_clock:ref threshold_reason:json total:int \
    total_discount_amounts:json total_excluding_tax:int total_pretax_credit_amounts:json total_taxes:json \
    webhooks_delivered_at:time";

pub(crate) const LINE_ITEM: &str = "id object invoice:ref amount:int currency description/pii discount_amounts:json \
    discountable:bool discounts:json livemode:bool metadata:map/pii parent:json period:json \
    pretax_credit_amounts:json pricing:json quantity:int quantity_decimal:dec subscription:ref subtotal:int taxes:json";

pub(crate) const INVOICE_ITEM: &str = "id object amount:int currency customer:ref customer_account date:time \
    description/pii discountable:bool discounts:json frozen_fields:texts invoice:ref livemode:bool metadata:map/pii \
    net_amount:int parent:json period:json pricing:json proration:bool proration_details:json quantity:int \
    quantity_decimal:dec tax_rates:json test_clock:ref";

pub(crate) const PAYMENT_INTENT: &str = "id object allowed_payment_method_types:texts amount:int \
    amount_capturable:int amount_details:json amount_received:int application:ref application_fee_amount:int \
    automatic_payment_methods:json canceled_at:time cancellation_reason capture_method confirmation_method \
    created:time currency customer:ref customer_account description/pii excluded_payment_method_types:texts hooks:json \
    last_payment_error:json/pii latest_charge:ref livemode:bool managed_payments:json metadata:map/pii \
    next_action:json/pii on_behalf_of:ref payment_details:json payment_method:ref \
    payment_method_configuration_details:json payment_method_options:json payment_method_types:texts \
    presentment_details:json processing:json receipt_email/pii review:ref setup_future_usage shipping:json/pii \
    source:ref statement_descriptor statement_descriptor_suffix status transfer_data:json transfer_group";

pub(crate) const SETUP_INTENT: &str = "id object allowed_payment_method_types:texts application:ref \
    attach_to_self:bool automatic_payment_methods:json cancellation_reason created:time customer:ref customer_account \
    description/pii excluded_payment_method_types:texts flow_directions:texts last_setup_error:json/pii \
    latest_attempt:ref livemode:bool managed_payments:json mandate:ref metadata:map/pii next_action:json/pii \
    on_behalf_of:ref payment_method:ref payment_method_configuration_details:json payment_method_options:json \
    payment_method_types:texts single_use_mandate:ref status usage";

pub(crate) const REFUND: &str = "id object amount:int balance_transaction:ref charge:ref created:time currency \
    customer:ref customer_account description destination_details:json/pii failure_balance_transaction:ref \
    failure_reason instructions_email/pii metadata:map/pii next_action:json payment_intent:ref payment_method:ref \
    pending_reason presentment_details:json reason receipt_number source_transfer_reversal:ref status \
    transfer_reversal:ref";

pub(crate) const BALANCE_TRANSACTION: &str = "id object amount:int available_on:time balance_type created:time \
    currency description exchange_rate:dec fee:int fee_details:json net:int reporting_category source:ref status type";

pub(crate) const PRODUCT: &str = "id object active:bool created:time default_price:ref description images:texts \
    livemode:bool marketing_features:json metadata:map name package_dimensions:json shippable:bool \
    statement_descriptor tax_code:ref type unit_label updated:time url";

pub(crate) const PRICE: &str = "id object active:bool billing_scheme created:time currency currency_options:json \
    custom_unit_amount:json livemode:bool lookup_key metadata:map nickname product:ref recurring:json tax_behavior \
    tiers:json tiers_mode transform_quantity:json type unit_amount:int unit_amount_decimal:dec";

pub(crate) const PLAN: &str = "id object active:bool amount:int amount_decimal:dec billing_scheme created:time \
    currency interval interval_count:int livemode:bool metadata:map meter nickname product:ref tiers:json tiers_mode \
    transform_usage:json trial_period_days:int usage_type";

pub(crate) const COUPON: &str = "id object amount_off:int applies_to:json created:time currency \
    currency_options:json duration duration_in_months:int livemode:bool max_redemptions:int metadata:map name \
    percent_off:dec redeem_by:time times_redeemed:int valid:bool";

pub(crate) const PROMOTION_CODE: &str = "id object active:bool code created:time customer:ref customer_account \
    expires_at:time livemode:bool max_redemptions:int metadata:map promotion:json restrictions:json times_redeemed:int";

pub(crate) const DISPUTE: &str = "id object amount:int balance_transactions:json charge:ref created:time currency \
    enhanced_eligibility_types:texts evidence:json/pii evidence_details:json is_charge_refundable:bool livemode:bool \
    metadata:map/pii network_reason_code payment_intent:ref payment_method_details:json/pii reason status";

pub(crate) const PAYOUT: &str = "id object amount:int application_fee:ref application_fee_amount:int \
    arrival_date:time automatic:bool balance_transaction:ref created:time currency description destination:ref \
    failure_balance_transaction:ref failure_code failure_message livemode:bool metadata:map method original_payout:ref \
    payout_method reconciliation_status reversed_by:ref source_type statement_descriptor status trace_id:json type";

pub(crate) const TRANSFER: &str = "id object amount:int amount_reversed:int balance_transaction:ref created:time \
    currency description destination:ref destination_payment:ref livemode:bool metadata:map reversals:json \
    reversed:bool source_transaction:ref source_type transfer_group";

pub(crate) const TRANSFER_REVERSAL: &str = "id object transfer:ref amount:int balance_transaction:ref created:time \
    currency destination_payment_refund:ref metadata:map source_refund:ref";

pub(crate) const CREDIT_NOTE: &str = "id object amount:int amount_shipping:int created:time currency customer:ref \
    customer_account customer_balance_transaction:ref discount_amount:int discount_amounts:json effective_at:time \
    invoice:ref lines:json livemode:bool memo/pii metadata:map/pii number out_of_band_amount:int pdf/pii \
    post_payment_amount:int pre_payment_amount:int pretax_credit_amounts:json reason refunds:json shipping_cost:json \
    status subtotal:int subtotal_excluding_tax:int total:int total_excluding_tax:int total_taxes:json type \
    voided_at:time";

pub(crate) const CHECKOUT_SESSION: &str = "id object adaptive_pricing:json after_expiration:json/pii \
    allow_promotion_codes:bool amount_subtotal:int amount_total:int automatic_tax:json billing_address_collection \
    branding_settings:json cancel_url client_reference_id/pii collected_information:json/pii consent:json \
    consent_collection:json created:time currency currency_conversion:json custom_fields:json/pii custom_text:json \
    customer:ref customer_account customer_creation customer_details:json/pii customer_email/pii discounts:json \
    excluded_payment_method_types:texts expires_at:time integration_identifier invoice:ref invoice_creation:json \
    line_items:json livemode:bool locale managed_payments:json metadata:map/pii mode name_collection:json \
    optional_items:json origin_context payment_intent:ref payment_link:ref payment_method_collection \
    payment_method_configuration_details:json payment_method_options:json payment_method_types:texts payment_status \
    permissions:json phone_number_collection:json presentment_details:json recovered_from redirect_on_completion \
    return_url saved_payment_method_options:json setup_intent:ref shipping_address_collection:json shipping_cost:json \
    shipping_options:json status submit_type subscription:ref success_url tax_id_collection:json total_details:json \
    ui_mode url/pii wallet_options:json";

pub(crate) const SUBSCRIPTION_SCHEDULE: &str = "id object application:ref billing_mode:json canceled_at:time \
    completed_at:time created:time current_phase:json customer:ref customer_account default_settings:json end_behavior \
    livemode:bool metadata:map/pii phases:json released_at:time released_subscription status subscription:ref \
    test_clock:ref";

pub(crate) const APPLICATION_FEE: &str = "id object account:ref amount:int amount_refunded:int application:ref \
    balance_transaction:ref charge:ref created:time currency fee_source:json livemode:bool \
    originating_transaction:ref refunded:bool refunds:json";

pub(crate) const FEE_REFUND: &str = "id object fee:ref amount:int balance_transaction:ref created:time currency \
    metadata:map";

pub(crate) const PAYMENT_METHOD: &str = "id object allow_redisplay billing_details:json/pii created:time customer:ref \
    customer_account livemode:bool metadata:map/pii radar_options:json type acss_debit:json/pii affirm:json/pii \
    afterpay_clearpay:json/pii alipay:json/pii alma:json/pii amazon_pay:json/pii au_becs_debit:json/pii \
    bacs_debit:json/pii bancontact:json/pii billie:json/pii bizum:json/pii blik:json/pii boleto:json/pii card:json/pii \
    card_present:json/pii cashapp:json/pii crypto:json/pii custom:json/pii customer_balance:json/pii eps:json/pii \
    fpx:json/pii giropay:json/pii grabpay:json/pii ideal:json/pii interac_present:json/pii kakao_pay:json/pii \
    klarna:json/pii konbini:json/pii kr_card:json/pii link:json/pii mb_way:json/pii mobilepay:json/pii \
    multibanco:json/pii naver_pay:json/pii nz_bank_account:json/pii oxxo:json/pii p24:json/pii pay_by_bank:json/pii \
    payco:json/pii paynow:json/pii paypal:json/pii payto:json/pii pix:json/pii promptpay:json/pii revolut_pay:json/pii \
    samsung_pay:json/pii satispay:json/pii scalapay:json/pii sepa_debit:json/pii sofort:json/pii sunbit:json/pii \
    swish:json/pii twint:json/pii upi:json/pii us_bank_account:json/pii wechat_pay:json/pii zip:json/pii";

pub(crate) const EVENT: &str = "id object account api_version context created:time data:json/pii livemode:bool \
    pending_webhooks:int request:json type";

pub(crate) const ACCOUNT: &str = "id object business_profile:json/pii business_type capabilities:json \
    charges_enabled:bool company:json/pii controller:json country created:time default_currency details_submitted:bool \
    email/pii external_accounts:json/pii future_requirements:json groups:json individual:json/pii metadata:map/pii \
    payouts_enabled:bool requirements:json settings:json tos_acceptance:json/pii type";

pub(crate) const TOPUP: &str = "id object amount:int balance_transaction:ref created:time currency description \
    expected_availability_date:time failure_code failure_message initiated_by livemode:bool metadata:map \
    payment_method:ref payment_method_options:json source:json/pii statement_descriptor status transfer_group";

pub(crate) const REVIEW: &str = "id object billing_zip/pii charge:ref closed_reason created:time ip_address/pii \
    ip_address_location:json/pii livemode:bool open:bool opened_reason payment_intent:ref reason session:json/pii";

pub(crate) const EARLY_FRAUD_WARNING: &str = "id object actionable:bool charge:ref created:time fraud_type \
    livemode:bool payment_intent:ref";

pub(crate) const ISSUING_AUTHORIZATION: &str = "id object amount:int amount_details:json approved:bool \
    authorization_method balance_transactions:json card:json/pii card_presence cardholder:ref created:time currency \
    fleet:json fraud_challenges:json fuel:json livemode:bool merchant_amount:int merchant_currency merchant_data:json \
    metadata:map/pii network_data:json pending_request:json request_history:json status token:ref transactions:json \
    treasury:json verification_data:json/pii verified_by_fraud_challenge:bool wallet";

pub(crate) const ISSUING_CARDHOLDER: &str = "id object billing:json/pii company:json/pii created:time email/pii \
    individual:json/pii livemode:bool metadata:map/pii name/pii phone_number/pii preferred_locales:texts \
    requirements:json spending_controls:json status type";

pub(crate) const ISSUING_CARD: &str = "id object brand cancellation_reason cardholder:json/pii created:time currency \
    exp_month:int exp_year:int financial_account last4/pii latest_fraud_warning:json lifecycle_controls:json \
    livemode:bool metadata:map/pii personalization_design:ref replaced_by:ref replacement_for:ref replacement_reason \
    second_line/pii shipping:json/pii spending_controls:json status type wallets:json";

pub(crate) const ISSUING_TRANSACTION: &str = "id object amount:int amount_details:json authorization:ref \
    balance_transaction:ref card:ref cardholder:ref created:time currency dispute:ref livemode:bool \
    merchant_amount:int merchant_currency merchant_data:json metadata:map/pii network_data:json \
    purchase_details:json/pii token:ref treasury:json type wallet";

pub(crate) const ISSUING_DISPUTE: &str = "id object amount:int balance_transactions:json created:time currency \
    evidence:json/pii livemode:bool loss_reason metadata:map/pii status transaction:ref treasury:json";

pub(crate) const FILE: &str = "id object created:time expires_at:time filename/pii links:json/pii purpose size:int \
    title/pii type url/pii";
