// npm `acme-client`, driven through its whole API: account, order, renewal, key rollover,
// revocation. Everything comes in the environment; files go to the working directory.
import fs from 'node:fs/promises';
import path from 'node:path';
import acme from 'acme-client';

const { ACME_DIRECTORY, ACME_WEBROOT, ACME_NAME, ACME_STEP } = process.env;

const read = (file) => fs.readFile(file);
const accountUrl = async () => JSON.parse(await read('account.json')).url;

async function client(step) {
    const options = { directoryUrl: ACME_DIRECTORY, backoffAttempts: 20, backoffMin: 500 };
    if (step === 'obtain') {
        const accountKey = await acme.crypto.createPrivateEcdsaKey();
        await fs.writeFile('account.key', accountKey);
        return new acme.Client({ ...options, accountKey });
    }
    return new acme.Client({
        ...options,
        accountKey: await read('account.key'),
        accountUrl: await accountUrl(),
    });
}

const tokenFile = (challenge) => path.join(ACME_WEBROOT, challenge.token);

async function issue(one) {
    const [key, csr] = await acme.crypto.createCsr({ altNames: [ACME_NAME, `www.${ACME_NAME}`] });
    const certificate = await one.auto({
        csr,
        email: 'npm@example.test',
        termsOfServiceAgreed: true,
        challengePriority: ['http-01'],
        skipChallengeVerification: true,
        challengeCreateFn: async (authz, challenge, keyAuthorization) =>
            fs.writeFile(tokenFile(challenge), keyAuthorization),
        challengeRemoveFn: async (authz, challenge) => fs.rm(tokenFile(challenge)),
    });
    await fs.writeFile('chain.pem', certificate);
    await fs.writeFile('leaf.key', key);
}

const steps = {
    async obtain(one) {
        await issue(one);
        await fs.writeFile('account.json', JSON.stringify({ url: one.getAccountUrl() }));
    },
    async renew(one) {
        await issue(one);
    },
    async rollover(one) {
        const next = await acme.crypto.createPrivateEcdsaKey('P-384');
        await one.updateAccountKey(next);
        await fs.writeFile('account.key', next);
        await one.updateAccount({ contact: ['mailto:rolled@example.test'] });
    },
    async revoke(one) {
        await one.revokeCertificate(await read('chain.pem'), { reason: 4 });
    },
};

await steps[ACME_STEP](await client(ACME_STEP));
