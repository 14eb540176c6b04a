// The peer of bench/login.py: oidc-provider with its own in-memory store, and a log-in that checks what ours checks:
// the card's certificate against its issuer, its status, and the signature over origin and challenge.
import { createHash, createPublicKey, randomBytes, verify, X509Certificate } from 'node:crypto'
import { createServer } from 'node:http'
import Provider from 'oidc-provider'

const asked = JSON.parse(process.argv[2])
const issuerKey = createPublicKey(asked.issuer_pem)
const good = new Set(asked.good)
const challenges = new Map()

const provider = new Provider(asked.issuer, {
  clients: [{
    client_id: 'rp', client_secret: asked.secret, redirect_uris: [asked.redirect_uri], grant_types: ['authorization_code'],
    response_types: ['code'], token_endpoint_auth_method: 'client_secret_basic',
  }],
  jwks: { keys: [asked.jwk] },
  cookies: { keys: ['only for this measurement'] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: false } },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  claims: { openid: ['sub', 'given_name', 'family_name', 'birthdate', 'acr', 'amr'] },
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, given_name: 'MARI', family_name: 'MAASIKAS', birthdate: '1980-01-08' }),
  }),
  async loadExistingGrant(ctx) {
    const grant = new ctx.oidc.provider.Grant({ accountId: ctx.oidc.session.accountId, clientId: ctx.oidc.client.clientId })
    grant.addOIDCScope('openid')
    await grant.save()
    return grant
  },
})

const sha384 = (text) => createHash('sha384').update(text).digest()

function person(token, nonce) {
  const certificate = new X509Certificate(Buffer.from(token.unverifiedCertificate, 'base64'))
  const now = new Date()
  if (!certificate.verify(issuerKey) || certificate.validFromDate > now || certificate.validToDate < now) throw new Error('certificate')
  if (!good.has(BigInt(`0x${certificate.serialNumber}`).toString())) throw new Error('status')
  const signed = Buffer.concat([sha384(asked.origin), sha384(nonce)])
  const key = { key: certificate.publicKey, dsaEncoding: 'ieee-p1363' }
  if (!verify('sha384', signed, key, Buffer.from(token.signature, 'base64'))) throw new Error('signature')
  return 'EE' + /serialNumber=PNOEE-([0-9]{11})/.exec(certificate.subject)[1]
}

async function body(request) {
  const pieces = []
  for await (const piece of request) pieces.push(piece)
  return JSON.parse(Buffer.concat(pieces))
}

const json = (response, value) => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
const oidc = provider.callback()
createServer(async (request, response) => {
  const [, , uid, step] = request.url.split('/')
  try {
    if (!request.url.startsWith('/interaction/')) return await oidc(request, response)
    await provider.interactionDetails(request, response)
    if (!step) return response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html><title>log in</title>')
    if (step === 'challenge') {
      const nonce = randomBytes(32).toString('base64')
      challenges.set(uid, nonce)
      return json(response, { nonce })
    }
    const { token } = await body(request)
    const nonce = challenges.get(uid)
    challenges.delete(uid)
    const login = { accountId: person(token, nonce), acr: 'high', amr: ['idcard'] }
    json(response, { location: await provider.interactionResult(request, response, { login }) })
  } catch (error) {
    response.writeHead(400).end(String(error))
  }
}).listen(asked.port, '127.0.0.1', () => console.log('up'))
