import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import { followSweep, parseMessage, type StreamMessage } from "./stream";

let close = () => {};
afterEach(() => {
  close();
  vi.unstubAllGlobals();
});

test("messages of kinds that this version doesn't know are passed over", () => {
  expect(parseMessage("progress", '{"trials": []}')).toEqual({ type: "progress", trials: [] });
  expect(parseMessage("confetti", "{}")).toBeNull();
  expect(parseMessage("points", "{half a mess")).toBeNull();
});

test("a broken stream is taken up again after the last event that was seen", async () => {
  const asked: (string | undefined)[] = [];
  await serve((req, res) => {
    asked.push(req.headers["last-event-id"] as string | undefined);
    res.writeHead(200, { "content-type": "text/event-stream" });
    if (asked.length === 1) {
      res.write('id: 41\nevent: event\ndata: {"id": 41, "type": "decision", "data": {}}\n\n');
      setTimeout(() => res.destroy(), 20);
    } else {
      res.end("event: end\ndata: {}\n\n");
    }
  });
  const seen: StreamMessage["type"][] = [];
  const lost = vi.fn();
  await new Promise<void>((resolve) => {
    followSweep("s", {
      onOpen: () => {},
      onMessage: (m) => {
        seen.push(m.type);
        if (m.type === "end") resolve();
      },
      onLost: lost,
      onRefused: () => {},
    });
  });
  expect(asked).toEqual([undefined, "41"]);
  expect(seen).toEqual(["event", "end"]);
  expect(lost).toHaveBeenCalledOnce();
});

test("a refusal is final and says why", async () => {
  let requests = 0;
  await serve((_, res) => {
    requests++;
    res.writeHead(404, { "content-type": "application/problem+json" });
    res.end('{"title": "Not found", "detail": "no sweep s"}');
  });
  const error = await new Promise<Error>((resolve) => {
    followSweep("s", { onOpen: () => {}, onMessage: () => {}, onLost: () => {}, onRefused: resolve });
  });
  expect(error.message).toBe("no sweep s");
  expect(requests).toBe(1);
});

/** A real server; `fetch` of a path goes to it, as it would in a page that it served. */
async function serve(answer: (req: IncomingMessage, res: ServerResponse) => void): Promise<void> {
  const server = createServer(answer);
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  const { port } = server.address() as AddressInfo;
  const real = fetch;
  vi.stubGlobal("fetch", (path: string, init: RequestInit) => real(`http://127.0.0.1:${port}${path}`, init));
  close = () => {
    server.closeAllConnections();
    server.close();
  };
}
