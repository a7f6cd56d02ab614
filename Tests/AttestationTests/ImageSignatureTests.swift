import Attestation
import FarmModel
import Glibc
import SingularityImage
import Support
import SystemIO
import Testing

@Suite struct ImageSignatureTests {
    private func image(_ scratch: Scratch) throws -> SingularityFile {
        var image = SingularityFile(
            try OpenFile("\(scratch.path)/x.sif", flags: O_RDWR | O_CREAT),
            SingularityImage.Head(architecture: .x86_64, identifier: [UInt8](repeating: 3, count: 16), created: 7))
        try image.append(
            .init(type: .partition, size: 0, created: 7, name: "root", extra: SingularityImage.partitionExtra(.x86_64)),
            [UInt8](repeating: 9, count: 5000), modified: 7)
        try image.append(.init(type: .genericJSON, size: 0, created: 7, name: "a"), Array("{}".utf8), modified: 7)
        return image
    }

    @Test func onlyWhatIsSignedIsSound() throws {
        let scratch = try Scratch()
        let (key, other) = (try SigningKey.generate(), try SigningKey.generate())
        var image = try image(scratch)
        #expect(try !ImageSignature.verify(image, by: [key.verifier]).isSound)
        let signature = try ImageSignature.sign(try SignatureMetadata(of: image), with: key)
        #expect(try signature == ImageSignature.sign(try SignatureMetadata(of: image), with: key))
        try ImageSignature.append(signature, to: &image)
        #expect(try ImageSignature.verify(image, by: [key.verifier]).isSound)
        let strangers = try ImageSignature.verify(image, by: [other.verifier])
        #expect(!strangers.isSound && strangers.findings.first?.verdict == .untrusted && strangers.unsigned == [1, 2])
        // An overlay outside the signed group: Singularity does not mind it, and would mount it.
        var overlay = SingularityImage.Descriptor(type: .partition, group: SingularityImage.noGroup, size: 0, created: 7, name: "overlay")
        overlay.extra = SingularityImage.partitionExtra(.x86_64)
        try image.append(overlay, [1], modified: 7)
        let report = try ImageSignature.verify(try SingularityFile("\(scratch.path)/x.sif"), by: [key.verifier])
        #expect(!report.isSound && report.unsigned == [4] && report.findings.map(\.verdict) == [.valid])
    }

    @Test func keysHaveTheFormsOfOthers() throws {
        let scratch = try Scratch()
        let key = try SigningKey.generate()
        try key.write("\(scratch.path)/farm.key")
        #expect(try KeyFile.signing("\(scratch.path)/farm.key").verifier == key.verifier)
        try Disk.replace("\(scratch.path)/pub.pem", with: Array(key.verifier.pem.utf8))
        #expect(try KeyFile.verifying("\(scratch.path)/pub.pem") as? VerifyingKey == key.verifier)
        for text in [
            "", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "-----END PUBLIC KEY----------BEGIN PUBLIC KEY-----",
        ] {
            try Disk.replace("\(scratch.path)/bad", with: Array(text.utf8))
            #expect(throws: FarmError.self) { try KeyFile.verifying("\(scratch.path)/bad") }
            #expect(throws: FarmError.self) { try KeyFile.signing("\(scratch.path)/bad") }
        }
        #expect(key.verifier.shellKeyID.hasPrefix("SHA256:") && key.verifier.shellKeyID.count == 7 + 43)
    }
}
