// Requests to the server that the page came from, and to no other.

const KEPT = "cotune-key";

/** What went wrong, in words for a person. */
export class ApiError extends Error {
  constructor(message, { status = 0, requestId = "", wait = 0 } = {}) {
    super(message);
    Object.assign(this, { status, requestId, wait });
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEPT, key);
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running, and are you online?");
  }
}

/** Return a file of the server. */
export async function fileAt(path) {
  const body = await (await reach(path)).blob();
  return new File([body], path.split("/").at(-1), { type: body.type });
}

/** Return the server's answer to JSON (or, without a body, to a question); raise an ApiError for anything else. */
export async function call(path, body, signal) {
  const key = sessionStorage.getItem(KEPT);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await reach(path, { method: body === undefined ? "GET" : "POST", headers, body, signal, cache: "no-store" });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const { message, request_id: requestId } = answer?.error ?? {};
  const wait = Number(response.headers.get("Retry-After")) || 0;
  const reason = response.status === 401 ? refusal(key) : sentence(response.status, message, wait);
  throw new ApiError(reason, { status: response.status, requestId, wait });
}

const refusal = (key) => (key ? "The server does not accept this key." : "The server asks for a key.");

function sentence(status, message, wait) {
  const again = wait ? `Try again in ${wait} second${wait === 1 ? "" : "s"}.` : "Try again in a moment.";
  if (status === 429 || status === 503) return `The server is busy. ${again}`;
  if (message) return message.slice(0, 1).toUpperCase() + message.slice(1);
  return `The server answered ${status} without saying why.`;
}

/** Return a file's bytes in base64. */
export function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new ApiError(`${file.name} cannot be read (${reader.error?.message}).`));
    reader.readAsDataURL(file);
  });
}

/** Return how many bytes a text has when it is sent. */
export const bytesOf = (text) => new Blob([text]).size;
