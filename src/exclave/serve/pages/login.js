// The log-in pages' own script. Without it only the card by way of the browser's certificate works.
"use strict";
(() => {
  const main = document.querySelector("main");
  const alertBox = document.getElementById("alert");
  const statusBox = document.getElementById("status");
  const texts = main.dataset;
  const base = texts.path;
  const interaction = texts.interaction;

  // Web eID's browser extension: a message to our own window, answered by "-ack", then "-success" or "-failure".
  const ACK_MS = 2500;
  const CARD_MS = 150000;

  class Failure extends Error {
    constructor(text) { super(text); this.text = text; }
  }

  function askExtension(nonce) {
    return new Promise((resolve, reject) => {
      const action = "web-eid:authenticate";
      let timer = setTimeout(() => end(reject, new Failure(texts.noExtension)), ACK_MS);
      function end(settle, value) {
        clearTimeout(timer);
        window.removeEventListener("message", hear);
        settle(value);
      }
      function hear(event) {
        const said = event.data;
        if (event.source !== window || event.origin !== location.origin || !said) return;
        if (said.action === `${action}-ack`) {
          clearTimeout(timer);
          timer = setTimeout(() => end(reject, new Failure(texts.timedOut)), CARD_MS);
        } else if (said.action === `${action}-success`) {
          end(resolve, said);
        } else if (said.action === `${action}-failure`) {
          end(reject, new Failure(cardFailure(said.error)));
        }
      }
      window.addEventListener("message", hear);
      window.postMessage(
        { action, libraryVersion: "2.1.0", challengeNonce: nonce, options: { lang: document.documentElement.lang } },
        location.origin,
      );
    });
  }

  function cardFailure(error) {
    switch (error && error.code) {
      case "ERR_WEBEID_USER_CANCELLED": return texts.cancelled;
      case "ERR_WEBEID_USER_TIMEOUT":
      case "ERR_WEBEID_ACTION_TIMEOUT": return texts.timedOut;
      case "ERR_WEBEID_NATIVE_UNAVAILABLE":
      case "ERR_WEBEID_VERSION_MISMATCH":
      case "ERR_WEBEID_EXTENSION_UNAVAILABLE": return texts.noExtension;
      default: return texts.failed;
    }
  }

  async function post(path, body) {
    let answer;
    try {
      answer = await fetch(path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ i: interaction, ...body }),
        credentials: "same-origin",
        cache: "no-store",
        redirect: "error",
      });
      const found = await answer.json();
      if (answer.ok) return found;
      throw new Failure(found.text || texts.failed);
    } catch (error) {
      throw error instanceof Failure ? error : new Failure(texts.network);
    }
  }

  async function byWebEid() {
    const { nonce } = await post(`${base}/web-eid/challenge`, {});
    statusBox.textContent = texts.workingCard;
    const { unverifiedCertificate, algorithm, signature, format, appVersion } = await askExtension(nonce);
    statusBox.textContent = texts.working;
    const token = { unverifiedCertificate, algorithm, signature, format, appVersion };
    location.assign((await post(`${base}/web-eid`, { token })).location);
  }

  async function byPasskey() {
    const options = await post(`${base}/passkey/challenge`, {});
    statusBox.textContent = texts.workingPasskey;
    const publicKey = { ...options, challenge: fromBase64url(options.challenge) };
    const credential = await passkey(() => navigator.credentials.get({ publicKey }));
    const { response } = credential;
    const answer = await post(`${base}/passkey`, {
      credential: {
        id: credential.id,
        type: credential.type,
        response: {
          clientDataJSON: toBase64url(response.clientDataJSON),
          authenticatorData: toBase64url(response.authenticatorData),
          signature: toBase64url(response.signature),
          userHandle: response.userHandle ? toBase64url(response.userHandle) : null,
        },
      },
    });
    location.assign(answer.location);
  }

  async function addPasskey() {
    const options = await post(`${texts.own}/challenge`, {});
    statusBox.textContent = texts.workingPasskey;
    const publicKey = {
      ...options,
      challenge: fromBase64url(options.challenge),
      user: { ...options.user, id: fromBase64url(options.user.id) },
      excludeCredentials: options.excludeCredentials.map((one) => ({ ...one, id: fromBase64url(one.id) })),
    };
    const credential = await passkey(() => navigator.credentials.create({ publicKey }));
    const { response } = credential;
    const answer = await post(`${texts.own}/add`, {
      credential: {
        id: credential.id,
        type: credential.type,
        response: {
          clientDataJSON: toBase64url(response.clientDataJSON),
          attestationObject: toBase64url(response.attestationObject),
        },
      },
    });
    location.assign(answer.location);
  }

  async function passkey(use) {
    try {
      return await use();
    } catch (error) {
      if (error.name === "InvalidStateError") throw new Failure(texts.passkeyKnown);
      throw new Failure(error.name === "NotAllowedError" || error.name === "AbortError" ? texts.cancelled : texts.failed);
    }
  }

  function toBase64url(buffer) {
    const bytes = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
    return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  function fromBase64url(text) {
    return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
  }

  const buttons = Array.from(document.querySelectorAll("button[data-way]"));
  const ways = { "web-eid": byWebEid, passkey: byPasskey, add: addPasskey };

  async function run(button) {
    buttons.forEach((one) => { one.disabled = true; });
    alertBox.textContent = "";
    statusBox.textContent = texts.working;
    try {
      await ways[button.dataset.way]();
    } catch (error) {
      statusBox.textContent = "";
      alertBox.textContent = error instanceof Failure ? error.text : texts.failed;
      buttons.forEach((one) => { one.disabled = false; });
      button.focus();
    }
  }

  for (const button of buttons) {
    const needed = button.dataset.way === "web-eid" || "PublicKeyCredential" in window;
    const item = button.closest("[data-script]");
    if (needed && item) item.hidden = false;
    button.addEventListener("click", () => run(button));
  }
})();
