// Drives openid-client through whole log-ins against the provider named in the first argument (JSON), and prints what it
// accepted. Each step is checked by the client itself; a failure ends the process.
import * as client from 'openid-client'

const asked = JSON.parse(process.argv[2])
const options = { execute: [client.allowInsecureRequests] }

async function authentication(kind) {
  if (kind === 'client_secret_basic') return client.ClientSecretBasic(asked.secret)
  if (kind === 'client_secret_post') return client.ClientSecretPost(asked.secret)
  if (kind === 'none') return client.None()
  const [algorithm, jwk] = [{ name: 'ECDSA', namedCurve: 'P-256' }, asked.jwk]
  const key = await crypto.subtle.importKey('jwk', jwk, algorithm, false, ['sign'])
  return client.PrivateKeyJwt({ key, kid: jwk.kid })
}

// A browser that follows redirects on loopback and keeps cookies until it comes back to the client.
async function browse(url) {
  const jar = new Map()
  for (let hops = 0; hops < 10; hops++) {
    if (url.href.startsWith(asked.redirect_uri)) return url
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const answer = await fetch(url, { redirect: 'manual', headers: cookie ? { cookie } : {} })
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(';')[0].split('=')
      jar.set(name, value)
    }
    if (!answer.headers.has('location')) throw new Error(`${answer.status} at ${url.pathname}: ${await answer.text()}`)
    url = new URL(answer.headers.get('location'), url)
  }
  throw new Error('too many redirects')
}

const results = []
for (const flow of asked.flows) {
  const config = await client.discovery(
    new URL(asked.issuer), flow.client_id,
    { id_token_signed_response_alg: flow.alg, use_mtls_endpoint_aliases: false },
    await authentication(flow.method), options,
  )
  const verifier = client.randomPKCECodeVerifier()
  const [state, nonce] = [client.randomState(), client.randomNonce()]
  const parameters = {
    redirect_uri: asked.redirect_uri, scope: 'openid', state, nonce, max_age: '600', acr_values: 'high',
    code_challenge: await client.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256',
  }
  const start = flow.par
    ? await client.buildAuthorizationUrlWithPAR(config, parameters)
    : client.buildAuthorizationUrl(config, parameters)
  const tokens = await client.authorizationCodeGrant(config, await browse(start), {
    pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, maxAge: 600, idTokenExpected: true,
  })
  const claims = tokens.claims()
  const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
  results.push({ flow, claims, info, par: start.searchParams.has('request_uri') })
}
console.log(JSON.stringify(results))
