import java.io.FileInputStream;
import java.io.FileWriter;
import java.io.InputStream;
import java.net.Socket;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.Provider;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.util.Collection;
import java.util.Date;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;
import javax.security.auth.x500.X500Principal;

import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.ExtensionsGenerator;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.GeneralNames;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.est.CSRRequestResponse;
import org.bouncycastle.est.ESTAuth;
import org.bouncycastle.est.ESTService;
import org.bouncycastle.est.EnrollmentResponse;
import org.bouncycastle.est.jcajce.ChannelBindingProvider;
import org.bouncycastle.est.jcajce.JcaHttpAuthBuilder;
import org.bouncycastle.est.jcajce.JsseDefaultHostnameAuthorizer;
import org.bouncycastle.est.jcajce.JsseESTServiceBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.jsse.BCSSLSocket;
import org.bouncycastle.jsse.provider.BouncyCastleJsseProvider;
import org.bouncycastle.openssl.jcajce.JcaPEMWriter;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;

/**
 * Bouncy Castle's EST client, one operation a run:
 * EstDriver OPERATION port=8443 root=root.pem [label=L] [tls=TLSv1.2] [login=USER:PASSWORD]
 * [p12=FILE] [name=device-1] [kind=EC] [jsse=BC] out=BASE
 *
 * Operations: cacerts, csrattrs, enroll, reenroll, serverkeygen, pop. Writes BASE.crt and BASE.key;
 * a 202 is waited for and asked again. PKCS #12 files have the password "interop".
 */
public final class EstDriver {
    private static final char[] PASSWORD = "interop".toCharArray();
    private static final int MOST_WAITS = 60;

    private final Map<String, String> given = new HashMap<>();
    private ESTService service;
    private ESTAuth auth;

    public static void main(String[] words) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        EstDriver driver = new EstDriver();
        for (int at = 1; at < words.length; at++) {
            String[] pair = words[at].split("=", 2);
            driver.given.put(pair[0], pair[1]);
        }
        driver.connect();
        driver.run(words[0]);
    }

    private void connect() throws Exception {
        Provider tls = given.getOrDefault("jsse", "").equals("BC")
            ? new BouncyCastleJsseProvider(new BouncyCastleProvider())
            : Security.getProvider("SunJSSE");
        JsseESTServiceBuilder builder = new JsseESTServiceBuilder(
            "localhost", Integer.parseInt(given.get("port")), trust(tls));
        builder.withProvider(tls)
            .withTLSVersion(given.getOrDefault("tls", "TLSv1.3"))
            .withTimeout(60_000)
            .withHostNameAuthorizer(new JsseDefaultHostnameAuthorizer(Set.of()))
            .withChannelBindingProvider(new FromBouncyCastle());
        if (given.containsKey("label")) {
            builder.withLabel(given.get("label"));
        }
        if (given.containsKey("p12")) {
            builder.withKeyManagers(keys(tls).getKeyManagers());
        }
        if (given.containsKey("login")) {
            String[] login = given.get("login").split(":", 2);
            auth = new JcaHttpAuthBuilder("EST", login[0], login[1].toCharArray()).build();
        }
        service = builder.build();
    }

    private X509TrustManager trust(Provider tls) throws Exception {
        KeyStore anchors = KeyStore.getInstance(KeyStore.getDefaultType());
        anchors.load(null, null);
        try (InputStream root = new FileInputStream(given.get("root"))) {
            anchors.setCertificateEntry("root",
                CertificateFactory.getInstance("X.509").generateCertificate(root));
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance("PKIX", tls);
        factory.init(anchors);
        return (X509TrustManager) factory.getTrustManagers()[0];
    }

    private KeyManagerFactory keys(Provider tls) throws Exception {
        KeyStore own = KeyStore.getInstance("PKCS12");
        try (InputStream file = new FileInputStream(given.get("p12"))) {
            own.load(file, PASSWORD);
        }
        KeyManagerFactory factory = KeyManagerFactory.getInstance(
            tls.getName().equals("SunJSSE") ? "NewSunX509" : "PKIX", tls);
        factory.init(own, PASSWORD);
        return factory;
    }

    private void run(String operation) throws Exception {
        switch (operation) {
            case "cacerts":
                write("crt", certificates(service.getCACerts().getCertificateStore().getMatches(null)));
                break;
            case "csrattrs":
                attributes(service.getCSRAttributes());
                break;
            case "enroll":
            case "reenroll":
                enrol(operation.equals("reenroll"));
                break;
            case "serverkeygen":
                generate();
                break;
            case "pop":
                prove();
                break;
            default:
                throw new IllegalArgumentException(operation);
        }
    }

    private void attributes(CSRRequestResponse response) throws Exception {
        if (!response.hasAttributesResponse()) {
            System.out.println("none");
            return;
        }
        for (ASN1ObjectIdentifier oid : response.getAttributesResponse().getRequirements()) {
            System.out.println(oid);
        }
    }

    private void enrol(boolean again) throws Exception {
        KeyPair pair = newKey();
        EnrollmentResponse response = service.simpleEnroll(again, request(pair).build(signer(pair)), auth);
        int waits = 0;
        for (; !response.isCompleted() && waits < MOST_WAITS; waits++) {
            System.out.println("waiting");
            Thread.sleep(Math.max(0, response.getNotBefore() - new Date().getTime()));
            response = service.simpleEnroll(response);
        }
        finish(response, pair);
    }

    private void generate() throws Exception {
        KeyPair pair = newKey();
        EnrollmentResponse response =
            service.simpleEnrollWithServersideCreation(request(pair).build(signer(pair)), auth);
        write("key", response.getPrivateKeyInfo());
        write("crt", certificates(response.getStore().getMatches(null)));
    }

    private void prove() throws Exception {
        KeyPair pair = newKey();
        finish(service.simpleEnrollPoP(false, request(pair), signer(pair), auth), pair);
    }

    private void finish(EnrollmentResponse response, KeyPair pair) throws Exception {
        if (!response.isCompleted()) {
            throw new IllegalStateException("not completed");
        }
        write("key", pair.getPrivate());
        write("crt", certificates(response.getStore().getMatches(null)));
    }

    private KeyPair newKey() throws Exception {
        boolean rsa = "RSA".equals(given.get("kind"));
        KeyPairGenerator generator = KeyPairGenerator.getInstance(rsa ? "RSA" : "EC", "BC");
        generator.initialize(rsa ? 2048 : 256);
        return generator.generateKeyPair();
    }

    private PKCS10CertificationRequestBuilder request(KeyPair pair) throws Exception {
        String name = given.get("name");
        ExtensionsGenerator extensions = new ExtensionsGenerator();
        extensions.addExtension(Extension.subjectAlternativeName, false,
            new GeneralNames(new GeneralName(GeneralName.dNSName, name + ".example.test")));
        return new JcaPKCS10CertificationRequestBuilder(new X500Principal("CN=" + name), pair.getPublic())
            .addAttribute(PKCSObjectIdentifiers.pkcs_9_at_extensionRequest, extensions.generate());
    }

    private ContentSigner signer(KeyPair pair) throws Exception {
        String algorithm = "RSA".equals(given.get("kind")) ? "SHA256withRSA" : "SHA256withECDSA";
        return new JcaContentSignerBuilder(algorithm).setProvider("BC").build(pair.getPrivate());
    }

    private Object[] certificates(Collection<X509CertificateHolder> found) {
        return found.toArray();
    }

    private void write(String suffix, Object... things) throws Exception {
        try (JcaPEMWriter writer =
                new JcaPEMWriter(new FileWriter(given.get("out") + "." + suffix))) {
            for (Object thing : things) {
                writer.writeObject(thing);
            }
        }
    }

    /** tls-unique of Bouncy Castle's own TLS. */
    private static final class FromBouncyCastle implements ChannelBindingProvider {
        @Override
        public boolean canAccessChannelBinding(Socket socket) {
            return socket instanceof BCSSLSocket;
        }

        @Override
        public byte[] getChannelBinding(Socket socket, String binding) {
            return ((BCSSLSocket) socket).getConnection().getChannelBinding(binding);
        }
    }
}
