// Reads a JSON array of bodies and prints a JSON array of signatures: node -e sign.js SENDER SECRET TIME
const crypto = require('node:crypto');
const fs = require('node:fs');

const [sender, secret, time] = process.argv.slice(1);
const bodies = JSON.parse(fs.readFileSync(0, 'utf8'));

async function shopify() {
  require('@shopify/shopify-api/adapters/node');
  const {shopifyApi, ApiVersion, LogSeverity} = require('@shopify/shopify-api');
  const api = shopifyApi({
    apiKey: 'key', apiSecretKey: secret, apiVersion: Object.values(ApiVersion).at(-1), hostName: 'localhost',
    isEmbeddedApp: false, logger: {level: LogSeverity.Error},
  });
  const signatures = [];
  for (const rawBody of bodies) {
    const signature = crypto.createHmac('sha256', secret).update(rawBody, 'utf8').digest('base64');
    const headers = {
      'x-shopify-hmac-sha256': signature, 'x-shopify-topic': 'orders/create', 'x-shopify-api-version': '2026-01',
      'x-shopify-shop-domain': 'acme.myshopify.com', 'x-shopify-webhook-id': 'id',
    };
    const rawRequest = {method: 'POST', url: '/', headers};
    const answer = await api.webhooks.validate({rawBody, rawRequest, rawResponse: {}});
    if (!answer.valid) throw new Error(`Shopify's library refuses the signature: ${answer.reason}`);
    signatures.push(signature);
  }
  return signatures;
}

async function stripe() {
  const library = require('stripe');
  const Stripe = library.default ?? library;
  const client = new Stripe('sk_test_none');
  return bodies.map((payload) => client.webhooks.generateTestHeaderString({payload, secret, timestamp: Number(time)}));
}

(sender === 'stripe' ? stripe() : shopify()).then(
  (signatures) => console.log(JSON.stringify(signatures)),
  (error) => { console.error(error); process.exit(1); },
);
