// Finds objects with an exported file in the browser: pixels in, boxes out. See index.html.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

/** The file's metadata: the entries of field 14 of its protobuf message, which onnxruntime-web does not give. */
function metadata(bytes) {
  const text = new TextDecoder(), found = {};
  let place = 0;
  const number = () => {
    for (let value = 0, factor = 1; ; factor *= 128) {
      const byte = bytes[place++];
      value += (byte % 128) * factor;
      if (byte < 128) return value;
    }
  };
  while (place < bytes.length) {
    const key = number(), length = number(), end = key % 8 === 2 ? place + length : place;
    if (key === 8 * 14 + 2) {
      const entry = [];
      for (; place < end; place += entry.at(-1).length) {
        place++; // the field's number: 1 is the key, 2 its value
        const size = number();
        entry.push(bytes.subarray(place, place + size));
      }
      found[text.decode(entry[0])] = text.decode(entry[1]);
    }
    place = end;
  }
  return found;
}

/** A function that takes an image file and gives [{name, score, box: [left, top, right, bottom]}], best first. */
export async function load(address) {
  const bytes = new Uint8Array(await (await fetch(address)).arrayBuffer());
  const session = await ort.InferenceSession.create(bytes), about = metadata(bytes);
  const names = JSON.parse(about.names), threshold = JSON.parse(about.threshold);
  return async (file) => {
    const image = await createImageBitmap(file, { colorSpaceConversion: "none" }); // upright, whatever its EXIF says
    const { width, height } = image, context = new OffscreenCanvas(width, height).getContext("2d");
    context.fillStyle = "white"; // under a transparent image, as predict has it
    context.fillRect(0, 0, width, height);
    context.drawImage(image, 0, 0);
    const rgba = context.getImageData(0, 0, width, height).data;
    const pixels = new Uint8Array(3 * width * height).map((_, i) => rgba[4 * Math.floor(i / 3) + (i % 3)]);
    const input = { pixels: new ort.Tensor("uint8", pixels, [1, height, width, 3]) };
    const { boxes, scores, labels } = await session.run(input);
    return [...scores.data].flatMap((score, i) => score < threshold ? [] : [{
      name: names[Number(labels.data[i])], score, box: [...boxes.data.subarray(4 * i, 4 * i + 4)],
    }]);
  };
}
