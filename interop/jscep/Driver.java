import java.io.IOException;
import java.math.BigInteger;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.cert.CertStore;
import java.security.cert.X509Certificate;
import java.util.Base64;
import java.util.Date;
import javax.security.auth.x500.X500Principal;
import org.bouncycastle.asn1.DERPrintableString;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.cert.jcajce.JcaX509v3CertificateBuilder;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;
import org.jscep.client.Client;
import org.jscep.client.EnrollmentResponse;
import org.jscep.client.verification.OptimisticCertificateVerifier;

/**
 * jscep, the library of Google's connector for managed ChromeOS devices: Driver URL NAME CHALLENGE
 * [renew] enrols, renews with a new key if told to, and fetches the first certificate and the CRL.
 * The files old.crt, new.crt, new.key, found.crt (PEM) and crl.der appear in the current directory.
 * Where it has to wait, it polls.
 */
public final class Driver {
    private static final long DEADLINE = System.nanoTime() + 200_000_000_000L;
    private final Client client;
    private final X500Principal subject;

    private Driver(URL url, String name) {
        client = new Client(url, new OptimisticCertificateVerifier());
        subject = new X500Principal("CN=" + name);
    }

    public static void main(String[] words) throws Exception {
        new Driver(new URL(words[0]), words[1]).run(words[2], words.length > 3);
    }

    private void run(String challenge, boolean renew) throws Exception {
        KeyPair pair = pair();
        X509Certificate old = enrol(selfSigned(pair), pair, request(pair, challenge));
        write("old.crt", "CERTIFICATE", old.getEncoded());
        X509Certificate held = old;
        if (renew) {
            KeyPair newPair = pair();
            held = enrol(old, pair, request(newPair, null));
            pair = newPair;
        }
        write("new.crt", "CERTIFICATE", held.getEncoded());
        write("new.key", "PRIVATE KEY", pair.getPrivate().getEncoded());
        BigInteger serial = old.getSerialNumber();
        X509Certificate found = only(client.getCertificate(held, pair.getPrivate(), serial));
        write("found.crt", "CERTIFICATE", found.getEncoded());
        byte[] crl = client.getRevocationList(
                held, pair.getPrivate(), held.getIssuerX500Principal(), serial).getEncoded();
        Files.write(Path.of("crl.der"), crl);
    }

    private X509Certificate enrol(
            X509Certificate own, KeyPair pair, PKCS10CertificationRequest request)
            throws Exception {
        EnrollmentResponse answer = client.enrol(own, pair.getPrivate(), request);
        while (answer.isPending()) {
            if (System.nanoTime() > DEADLINE) {
                throw new IOException("still pending");
            }
            Thread.sleep(300);
            answer = client.poll(own, pair.getPrivate(), subject, answer.getTransactionId());
        }
        if (answer.isFailure()) {
            throw new IOException("FAILURE " + answer.getFailInfo());
        }
        return only(answer.getCertStore());
    }

    private static X509Certificate only(CertStore store) throws Exception {
        var found = store.getCertificates(null);
        if (found.size() != 1) {
            throw new IOException(found.size() + " certificates");
        }
        return (X509Certificate) found.iterator().next();
    }

    private PKCS10CertificationRequest request(KeyPair pair, String challenge) throws Exception {
        var builder = new JcaPKCS10CertificationRequestBuilder(subject, pair.getPublic());
        if (challenge != null) {
            builder.addAttribute(
                    PKCSObjectIdentifiers.pkcs_9_at_challengePassword,
                    new DERPrintableString(challenge));
        }
        return builder.build(signer(pair));
    }

    private X509Certificate selfSigned(KeyPair pair) throws Exception {
        Date now = new Date();
        var builder = new JcaX509v3CertificateBuilder(
                subject, BigInteger.ONE, now, new Date(now.getTime() + 86_400_000L), subject,
                pair.getPublic());
        return new JcaX509CertificateConverter().getCertificate(builder.build(signer(pair)));
    }

    private static ContentSigner signer(KeyPair pair) throws Exception {
        return new JcaContentSignerBuilder("SHA256withRSA").build(pair.getPrivate());
    }

    private static KeyPair pair() throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("RSA");
        generator.initialize(2048);
        return generator.generateKeyPair();
    }

    private static void write(String name, String label, byte[] der) throws IOException {
        String text = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(der);
        Files.writeString(
                Path.of(name),
                "-----BEGIN " + label + "-----\n" + text + "\n-----END " + label + "-----\n");
    }
}
