// A page that was opened from disk may not start a worker, which the search of this site needs. There, a hidden frame
// runs the worker's script instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      const page = inside.document;
      page.open();
      page.write("<!doctype html><body></body>");
      page.close();
      // what the worker posts arrives here as messages of this object
      inside.postMessage = (data) => {
        const message = new MessageEvent("message", { data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      };
      inside.importScripts = (...urls) =>
        urls.reduce((before, next) => before.then(() => this.run(next)), Promise.resolve());
      this.ready = this.run(url);
    }

    run(url) {
      return new Promise((loaded, failed) => {
        const script = this.frame.contentWindow.document.createElement("script");
        script.src = url;
        script.onload = loaded;
        script.onerror = failed;
        this.frame.contentWindow.document.body.append(script);
      });
    }

    postMessage(data) {
      this.ready.then(() => {
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
