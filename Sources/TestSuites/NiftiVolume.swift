import FarmModel
import Foundation

/// What a single-file NIfTI image tells of itself (NIfTI-1.1, nifti1.h; NIfTI-2, nifti2.h), read from its bytes.
package struct NiftiVolume: Sendable {
    package var dimensions: [Int]
    package var type: String
    package var voxelSize: [Double]
    /// To which directions the first three axes point, for example `RAS`; `nil` where the file does not say.
    package var orientation: String?
    private let code: Int
    private let scale: Double
    private let shift: Double
    private let isSwapped: Bool
    private let content: ArraySlice<UInt8>

    /// Values of all voxels, summed up.
    package struct Summary: Sendable {
        package var count = 0
        package var mean = 0.0
        package var least = Double.infinity
        package var most = -Double.infinity
        package var strange = 0
    }

    /// Data types and their sizes in bytes, by the format's numbers.
    private static let types: [Int: (name: String, bytes: Int)] = [
        2: ("uint8", 1), 4: ("int16", 2), 8: ("int32", 4), 16: ("float32", 4), 32: ("complex64", 8), 64: ("float64", 8), 128: ("rgb24", 3),
        256: ("int8", 1), 512: ("uint16", 2), 768: ("uint32", 4), 1024: ("int64", 8), 1280: ("uint64", 8), 2304: ("rgba32", 4),
    ]
    /// The names that a check may ask for.
    package static var typeNames: [String] { types.values.map(\.name).sorted() }

    /// - Parameter bytes: of the file, packed by gzip or not. Throws `volume.invalid`.
    package init(_ packed: [UInt8], source: String) throws {
        func invalid(_ reason: String) -> FarmError { FarmError("volume.invalid", .invalid, "\(source) is no NIfTI image: \(reason)") }
        let bytes = packed.starts(with: [0x1f, 0x8b]) ? try Unzip.gzip(packed, source: source) : packed
        guard bytes.count >= 348 else { throw invalid("it has \(bytes.count) bytes") }
        let size = NiftiFields(bytes, isSwapped: false).int(0, 4)
        let swapped = NiftiFields(bytes, isSwapped: true).int(0, 4)
        isSwapped = size != 348 && size != 540
        guard [348, 540].contains(isSwapped ? swapped : size) else { throw invalid("it does not begin with the size of a header") }
        let isSecond = (isSwapped ? swapped : size) == 540
        guard !isSecond || bytes.count >= 540 else { throw invalid("it has \(bytes.count) bytes") }
        let magic = isSecond ? Array(bytes[4..<7]) : Array(bytes[344..<347])
        guard magic == Array((isSecond ? "n+2" : "n+1").utf8) else { throw invalid("it is not one of a single file") }
        let fields = NiftiFields(bytes, isSwapped: isSwapped)
        let rank = isSecond ? fields.int(16, 8) : fields.int(40, 2)
        guard (1...7).contains(rank) else { throw invalid("it has \(rank) dimensions") }
        dimensions = (1...rank).map { isSecond ? fields.int(16 + 8 * $0, 8) : fields.int(40 + 2 * $0, 2) }
        guard dimensions.allSatisfy({ $0 > 0 }) else { throw invalid("its dimensions are \(dimensions)") }
        voxelSize = (1...rank).map { isSecond ? fields.double(104 + 8 * $0) : fields.float(76 + 4 * $0) }
        code = isSecond ? fields.int(12, 2) : fields.int(70, 2)
        guard let known = NiftiVolume.types[code] else { throw invalid("data type \(code) is not known") }
        type = known.name
        scale = isSecond ? fields.double(176) : fields.float(112)
        shift = isSecond ? fields.double(184) : fields.float(116)
        let offset = isSecond ? Double(fields.int(168, 8)) : fields.float(108)
        let total = dimensions.reduce(into: (value: known.bytes, fits: true)) { total, next in
            let (value, overflows) = total.value.multipliedReportingOverflow(by: next)
            total = (value, total.fits && !overflows)
        }
        guard offset.isFinite, offset >= Double(isSecond ? 540 : 348), total.fits, offset + Double(total.value) <= Double(bytes.count)
        else {
            throw invalid("\(dimensions) voxels of \(type) need more bytes than the \(bytes.count) that are there")
        }
        content = bytes[Int(offset)..<Int(offset) + total.value]
        orientation = NiftiVolume.orientation(fields, isSecond, pixels: voxelSize)
    }

    /// By the header's affine transformation, else by its quaternion (nifti1.h, "Orientation information").
    private static func orientation(_ fields: NiftiFields, _ isSecond: Bool, pixels: [Double]) -> String? {
        let qform = isSecond ? fields.int(344, 4) : fields.int(252, 2)
        let sform = isSecond ? fields.int(348, 4) : fields.int(254, 2)
        var columns: [[Double]]
        if sform > 0 {
            let rows = (0..<3).map { row in
                (0..<3).map { isSecond ? fields.double(400 + 32 * row + 8 * $0) : fields.float(280 + 16 * row + 4 * $0) }
            }
            columns = (0..<3).map { column in rows.map { $0[column] } }
        } else if qform > 0 {
            let (b, c, d) =
                isSecond
                ? (fields.double(352), fields.double(360), fields.double(368)) : (fields.float(256), fields.float(260), fields.float(264))
            let a = max(0, 1 - b * b - c * c - d * d).squareRoot()
            let factor = (isSecond ? fields.double(104) : fields.float(76)) < 0 ? -1.0 : 1.0
            columns = [
                [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)],
                [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)],
                [2 * (b * d + a * c) * factor, 2 * (c * d - a * b) * factor, (a * a + d * d - b * b - c * c) * factor],
            ]
        } else {
            return nil
        }
        let letters = [["R", "L"], ["A", "P"], ["S", "I"]]
        var free = Set(0..<3)
        var found = ["", "", ""]
        // The axis that lies nearest to a direction takes it.
        for _ in 0..<3 {
            var best: (axis: Int, direction: Int, size: Double)?
            for axis in 0..<3 where found[axis].isEmpty {
                let length = columns[axis].reduce(0) { $0 + $1 * $1 }.squareRoot()
                for direction in free {
                    let size = length > 0 ? abs(columns[axis][direction]) / length : 0
                    if size.isFinite, size > best?.size ?? -1 { best = (axis, direction, size) }
                }
            }
            guard let best, best.size > 0 else { return nil }
            found[best.axis] = letters[best.direction][columns[best.axis][best.direction] < 0 ? 1 : 0]
            free.remove(best.direction)
        }
        return found.joined()
    }

    /// Whether voxels are single numbers.
    package var isReal: Bool { ![32, 128, 2304].contains(code) }

    /// Calls `body` with the value of every voxel, in the order of the file.
    private func each(_ body: (Double) -> Void) {
        guard isReal else { return }
        let bytes = NiftiVolume.types[code]?.bytes ?? 1
        // No scale, or one of 0, means none.
        let factor = scale.isFinite && scale != 0 ? scale : 1
        let offset = scale.isFinite && scale != 0 && shift.isFinite ? shift : 0
        content.withUnsafeBytes { raw in
            for index in 0..<raw.count / bytes {
                var bits: UInt64 = 0
                for byte in 0..<bytes {
                    bits |= UInt64(raw[index * bytes + byte]) << UInt64(8 * (isSwapped ? bytes - 1 - byte : byte))
                }
                let value: Double
                switch code {
                case 16: value = Double(Float(bitPattern: UInt32(truncatingIfNeeded: bits)))
                case 64: value = Double(bitPattern: bits)
                case 4: value = Double(Int16(truncatingIfNeeded: bits))
                case 8: value = Double(Int32(truncatingIfNeeded: bits))
                case 256: value = Double(Int8(truncatingIfNeeded: bits))
                case 1024: value = Double(Int64(bitPattern: bits))
                default: value = Double(bits)
                }
                body(value * factor + offset)
            }
        }
    }

    package var summary: Summary {
        var found = Summary()
        var sum = 0.0
        each { value in
            guard value.isFinite else {
                found.strange += 1
                return
            }
            found.count += 1
            sum += value
            found.least = min(found.least, value)
            found.most = max(found.most, value)
        }
        found.mean = found.count > 0 ? sum / Double(found.count) : .nan
        return found
    }

    /// SHA-256 over all values, each rounded to a multiple of `step`; what is no number counts as the least whole number.
    package func checksum(step: Double) -> String {
        var bytes: [UInt8] = []
        each { value in
            let rounded = (value / step).rounded()
            let number = rounded.isFinite && abs(rounded) < 9e18 ? Int64(rounded) : Int64.min
            withUnsafeBytes(of: number.littleEndian) { bytes.append(contentsOf: $0) }
        }
        return Digest(hashing: bytes).hex
    }
}

/// Numbers in a NIfTI header.
private struct NiftiFields {
    let bytes: [UInt8]
    let isSwapped: Bool

    init(_ bytes: [UInt8], isSwapped: Bool) { (self.bytes, self.isSwapped) = (bytes, isSwapped) }

    private func bits(_ place: Int, _ count: Int) -> UInt64 {
        (0..<count).reduce(0) { $0 | UInt64(bytes[place + $1]) << UInt64(8 * (isSwapped ? count - 1 - $1 : $1)) }
    }

    func int(_ place: Int, _ count: Int) -> Int {
        let value = bits(place, count)
        switch count {
        case 2: return Int(Int16(truncatingIfNeeded: value))
        case 4: return Int(Int32(truncatingIfNeeded: value))
        default: return Int(Int64(bitPattern: value))
        }
    }

    func float(_ place: Int) -> Double { Double(Float(bitPattern: UInt32(truncatingIfNeeded: bits(place, 4)))) }

    func double(_ place: Int) -> Double { Double(bitPattern: bits(place, 8)) }
}
