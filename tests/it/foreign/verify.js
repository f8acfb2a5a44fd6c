// What libraries for Node.js make of a token: a line for each, with its version and whether it accepted the token.
const { createPublicKey } = require("node:crypto");

const { TOKEN, KEYS, ALG, ISSUER: issuer, AUDIENCE: audience } = process.env;

const checks = {
  async jose() {
    const jose = await import(require.resolve("jose"));
    await jose.jwtVerify(TOKEN, jose.createRemoteJWKSet(new URL(KEYS)), { issuer, audience, typ: "at+jwt" });
  },
  async jsonwebtoken() {
    const jsonwebtoken = require("jsonwebtoken");
    const { keys } = await (await fetch(KEYS)).json();
    const { kid } = jsonwebtoken.decode(TOKEN, { complete: true }).header;
    const key = createPublicKey({ key: keys.find((key) => key.kid === kid), format: "jwk" });
    jsonwebtoken.verify(TOKEN, key, { algorithms: [ALG], issuer, audience });
  },
};

(async () => {
  for (const [name, check] of Object.entries(checks)) {
    const accepted = await check().then(() => "yes", () => "no");
    const folder = `${process.env.NODE_PATH}/${name}`;
    console.log(name, require(`${folder}/package.json`).version, accepted);
  }
})();
