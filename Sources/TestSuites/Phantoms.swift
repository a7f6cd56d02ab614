package import FarmModel

/// Test data that is computed: the same bytes on every machine, so that suites can expect numbers. Every farm has it as the dataset `phantoms`.
package enum Phantoms {
    package static let name = "phantoms"

    /// What the dataset consists of, and its files' bytes by their paths.
    package static let dataset: (dataset: TestDataset, files: [String: [UInt8]]) = {
        var files: [String: [UInt8]] = ["volume.nii": volume(frames: 1), "series.nii": volume(frames: 4), "surface.gii": surface()]
        for slice in 0..<slices { files["dicom/slice-\(slice < 9 ? "00" : "0")\(slice + 1).dcm"] = dicom(slice) }
        let listed = files.map { TestDataset.File(path: $0.key, digest: Digest(hashing: $0.value), size: Int64($0.value.count)) }
        let dataset = TestDataset(
            name: name, source: "computed by sciferry: a ramp as NIfTI and as a DICOM series of \(slices) slices, an icosahedron as GIFTI",
            licence: "CC0-1.0", files: listed)
        return (dataset, files)
    }()

    private static let (columns, rows, slices) = (24, 32, 12)

    /// The value of a voxel: 100 for each slice, and 1 for each column and row.
    private static func value(_ column: Int, _ row: Int, _ slice: Int) -> Int { 100 * slice + row + column }

    private static func little(_ value: Int, _ bytes: Int) -> [UInt8] { (0..<bytes).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

    private static func little(_ value: Float) -> [UInt8] { little(Int(value.bitPattern), 4) }

    /// A ramp of 24 x 32 x 12 voxels of 1 x 1 x 2 mm, int16, RAS (nifti1.h); each further frame is higher by 1.
    private static func volume(frames: Int) -> [UInt8] {
        var head = [UInt8](repeating: 0, count: 352)
        func put(_ place: Int, _ bytes: [UInt8]) { head.replaceSubrange(place..<place + bytes.count, with: bytes) }
        put(0, little(348, 4))
        let dimensions = frames > 1 ? [4, columns, rows, slices, frames, 1, 1, 1] : [3, columns, rows, slices, 1, 1, 1, 1]
        put(40, dimensions.flatMap { little($0, 2) })
        put(70, little(4, 2))
        put(72, little(16, 2))
        put(76, [Float(1), 1, 1, 2, 2, 0, 0, 0].flatMap { little($0) })
        put(108, little(Float(352)))
        put(112, little(Float(1)))
        // Millimetres and seconds.
        put(123, [10])
        put(148, Array("sciferry phantom".utf8))
        put(254, little(1, 2))
        put(280, [Float(1), 0, 0, -12, 0, 1, 0, -16, 0, 0, 2, -12].flatMap { little($0) })
        put(344, Array("n+1".utf8))
        var voxels: [UInt8] = []
        for frame in 0..<frames {
            for slice in 0..<slices {
                for row in 0..<rows { for column in 0..<columns { voxels += little(value(column, row, slice) + frame, 2) } }
            }
        }
        return head + voxels
    }

    /// An icosahedron as GIFTI 1.0 with its numbers as text.
    private static func surface() -> [UInt8] {
        let golden = "1.618034"
        let points = [
            "-1 \(golden) 0", "1 \(golden) 0", "-1 -\(golden) 0", "1 -\(golden) 0", "0 -1 \(golden)", "0 1 \(golden)", "0 -1 -\(golden)",
            "0 1 -\(golden)", "\(golden) 0 -1", "\(golden) 0 1", "-\(golden) 0 -1", "-\(golden) 0 1",
        ]
        let faces = [
            "0 11 5", "0 5 1", "0 1 7", "0 7 10", "0 10 11", "1 5 9", "5 11 4", "11 10 2", "10 7 6", "7 1 8", "3 9 4", "3 4 2", "3 2 6",
            "3 6 8", "3 8 9", "4 9 5", "2 4 11", "6 2 10", "8 6 7", "9 8 1",
        ]
        func array(_ intent: String, _ type: String, _ lines: [String]) -> String {
            """
            <DataArray Intent="\(intent)" DataType="\(type)" ArrayIndexingOrder="RowMajorOrder" Dimensionality="2" Dim0="\(lines.count)" Dim1="3" \
            Encoding="ASCII" Endian="LittleEndian" ExternalFileName="" ExternalFileOffset="">
            <MetaData/>
            <Data>
            \(lines.joined(separator: "\n"))
            </Data>
            </DataArray>
            """
        }
        let text = """
            <?xml version="1.0" encoding="UTF-8"?>
            <!DOCTYPE GIFTI SYSTEM "http://www.nitrc.org/frs/download.php/115/gifti.dtd">
            <GIFTI Version="1.0" NumberOfDataArrays="2">
            <MetaData/>
            <LabelTable/>
            \(array("NIFTI_INTENT_POINTSET", "NIFTI_TYPE_FLOAT32", points))
            \(array("NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32", faces))
            </GIFTI>

            """
        return Array(text.utf8)
    }

    /// One slice of a small MR series (explicit VR, little endian; DICOM PS3.5 and PS3.10).
    private static func dicom(_ slice: Int) -> [UInt8] {
        let (root, kind) = ("1.2.826.0.1.3680043.10.1338", "1.2.840.10008.5.1.4.1.1.4")
        let instance = "\(root).3.\(slice + 1)"
        func element(_ group: Int, _ number: Int, _ form: String, _ value: [UInt8]) -> [UInt8] {
            let head = little(group, 2) + little(number, 2) + Array(form.utf8)
            return head + (["OB", "OW"].contains(form) ? [0, 0] + little(value.count, 4) : little(value.count, 2)) + value
        }
        func text(_ group: Int, _ number: Int, _ form: String, _ value: String) -> [UInt8] {
            var bytes = Array(value.utf8)
            // Texts are padded to even length (PS3.5, 6.2).
            if bytes.count % 2 == 1 { bytes.append(form == "UI" ? 0 : 32) }
            return element(group, number, form, bytes)
        }
        var meta = element(2, 1, "OB", [0, 1]) + text(2, 2, "UI", kind) + text(2, 3, "UI", instance)
        meta += text(2, 0x10, "UI", "1.2.840.10008.1.2.1") + text(2, 0x12, "UI", "\(root).9")
        var data = element(2, 0, "UL", little(meta.count, 4)) + meta
        let texts: [(Int, Int, String, String)] = [
            (0x08, 0x08, "CS", "ORIGINAL\\PRIMARY\\M\\ND"), (0x08, 0x16, "UI", kind), (0x08, 0x18, "UI", instance),
            (0x08, 0x20, "DA", "20260101"), (0x08, 0x30, "TM", "120000"), (0x08, 0x60, "CS", "MR"), (0x08, 0x70, "LO", "Sciferry"),
            (0x08, 0x103e, "LO", "ramp"), (0x10, 0x10, "PN", "Phantom"), (0x10, 0x20, "LO", "phantom"), (0x18, 0x20, "CS", "GR"),
            (0x18, 0x23, "CS", "2D"), (0x18, 0x50, "DS", "2"), (0x18, 0x80, "DS", "500"), (0x18, 0x81, "DS", "10"), (0x18, 0x88, "DS", "2"),
            (0x18, 0x1030, "LO", "ramp"), (0x18, 0x5100, "CS", "HFS"), (0x20, 0x0d, "UI", "\(root).1"), (0x20, 0x0e, "UI", "\(root).2"),
            (0x20, 0x10, "SH", "1"), (0x20, 0x11, "IS", "1"), (0x20, 0x13, "IS", "\(slice + 1)"), (0x20, 0x32, "DS", "0\\0\\\(2 * slice)"),
            (0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0"), (0x20, 0x1041, "DS", "\(2 * slice)"),
        ]
        for (group, number, form, value) in texts { data += text(group, number, form, value) }
        data += element(0x28, 0x02, "US", little(1, 2)) + text(0x28, 0x04, "CS", "MONOCHROME2")
        for (number, value) in [(0x10, rows), (0x11, columns)] { data += element(0x28, number, "US", little(value, 2)) }
        data += text(0x28, 0x30, "DS", "1\\1")
        for (number, value) in [(0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)] { data += element(0x28, number, "US", little(value, 2)) }
        let pixels = (0..<rows).flatMap { row in (0..<columns).flatMap { little(value($0, row, slice), 2) } }
        return [UInt8](repeating: 0, count: 128) + Array("DICM".utf8) + data + element(0x7fe0, 0x10, "OW", pixels)
    }
}
